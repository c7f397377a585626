"""`coin-hts backup`, in this process against a real Postgres, and a machine that is lost and brought back."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from coin_hts_pipelines import cli
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.control.instance import open_database, open_instance, prepare
from coin_hts_pipelines.control.run_owners import OWNER_TAG
from coin_hts_pipelines.defs import backups
from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.defs.helpers import forget_settings
from coin_hts_pipelines_tests.operations.backup.helpers import House

__all__ = ["new_database"]

Say = Callable[..., Any]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[], str]) -> Iterator[House]:
    """A project home as the working directory, with candles and a result."""
    shutil.copy(CHECKOUT / "dagster.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    url = new_database()
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", url)
    forget_settings()
    before = dict(os.environ)
    prepare()
    made = House(tmp_path, Database(url, pool_size=1))
    made.merge("KRW-BTC")
    made.publish("KRW-BTC", 1)
    yield made
    made.database.dispose()
    open_database().dispose()
    os.environ.clear()
    os.environ.update(before)
    forget_settings()


@pytest.fixture
def say(house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `coin-hts backup` as a process of its own would, and return what it printed, on which stream is all one."""

    def run(line: str, *, status: int = 0) -> Any:
        with house.database.session() as session:  # Dagster's pools live as long as this process
            session.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        house.database.dispose()
        open_database().dispose()
        monkeypatch.setattr(sys, "argv", ["coin-hts", "backup", *line.split()])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert (ended.value.code or 0) == status, out + err
        return json.loads(out) if "--json" in line else out + err

    return run


def spoil(house: House) -> Path:
    path = max((house.home / "backups" / "objects").rglob("*/*"), key=lambda one: one.stat().st_size)
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(bytes(content))
    return path


def test_create_list_verify_prune(house: House, say: Say) -> None:
    assert "there are no backups" in say("verify")
    first = say("create --json")
    assert first["files"] == len(house.files())
    text = say("create")
    assert "files and the database" in text
    listed = say("list --json")
    assert [row["state"] for row in listed] == ["ok", "ok"]
    assert listed[1]["id"] == first["id"]
    assert {"id", "created", "size", "files", "new_bytes"} <= listed[0].keys()
    assert first["id"] in say("list")
    assert say("verify --json") == [{"id": row["id"], "ok": True, "problems": []} for row in listed]
    assert f"{first['id']}: ok" in say(f"verify {first['id']}")
    (house.home / "backups" / "20200101T000000.000000Z-00000000.partial").write_text("")
    assert say("list --json")[-1]["state"] == "incomplete"
    assert "did not end" in say("list")
    assert say("prune --dry-run --json")["backups"] == [first["id"]]
    assert len(say("list --json")) == 3
    assert first["id"] in say("prune")
    assert [row["id"] for row in say("list --json")] == [listed[0]["id"]]


def test_a_damaged_byte(house: House, say: Say) -> None:
    made = say("create --json")
    spoil(house)
    assert "damaged" in say("verify latest", status=1)
    (found,) = say("verify --json", status=1)
    assert (found["id"], found["ok"], len(found["problems"])) == (made["id"], False, 1)
    files = house.files()
    assert "damaged" in say("restore latest --force", status=1)
    assert house.files() == files


def test_one_that_misses_something(house: House, say: Say) -> None:
    made = say("create --json")
    spoil(house).unlink()
    assert say("list --json")[0]["state"] == "incomplete"
    assert "missing" in say("list")
    assert "1 bad" in say(f"verify {made['id']}", status=1)
    assert "cannot be used" in say(f"restore {made['id']}", status=1)


@pytest.mark.parametrize("line", ["verify 1999", "restore 1999", "restore latest", "restore", "verify latest"])
def test_bad_input(say: Say, line: str) -> None:
    say(line, status=2)


def test_restore_ends_runs_of_a_machine_that_is_gone(house: House, say: Say) -> None:
    tags = {OWNER_TAG: "another-host/1/2/x"}
    with open_instance() as instance:
        runs = {
            status: instance.create_run_for_job(_job, status=status, tags=tags).run_id
            for status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS)
        }
    say("create")
    files = house.files()
    house.merge("KRW-NEW")
    assert "--force" in say("restore latest", status=2)
    assert "1 runs that were unfinished" in say("restore latest --force")
    assert house.files() == files
    with open_instance() as instance:
        ended = {status: instance.get_run_by_id(run_id).status for status, run_id in runs.items()}
    assert ended == {
        dg.DagsterRunStatus.STARTED: dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.SUCCESS: dg.DagsterRunStatus.SUCCESS,
    }


def test_a_backup_that_was_under_way_is_not_tried_again(house: House, say: Say) -> None:
    """Its backup of a day that came back, and the prune behind it, would replace today's."""
    states = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED)
    with open_instance() as instance:
        for job in (backups.backup_job, backups.drill_job):
            for status in states:
                instance.create_run_for_job(job, status=status)
    say("create")
    house.merge("KRW-NEW")
    assert "4 runs that were unfinished" in say("restore latest --force")
    with open_instance() as instance:
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.CANCELED}


def test_restore_to_another_home(house: House, say: Say, tmp_path_factory: pytest.TempPathFactory) -> None:
    say("create")
    home = tmp_path_factory.mktemp("other")
    assert str(home / "data") in say(f"restore latest --to {home}")
    assert House(home, house.database).files() == house.files()
    assert not (home / "data" / "postgres" / "postmaster.pid").exists()
    assert "--force" in say(f"restore latest --to {home}", status=2)


@dg.op
def _nothing() -> None:
    pass


@dg.job
def _job() -> None:
    _nothing()
