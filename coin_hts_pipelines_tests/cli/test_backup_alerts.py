"""Whatever goes wrong with a backup, a restore or a prune is an alert; what is nobody's failure is none."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.control import backup as control
from coin_hts_pipelines.control.instance import open_database, prepare
from coin_hts_pipelines.errors import NoCandles, PermanentError, TransientError
from coin_hts_pipelines.operations.alert_delivery import AlertOutbox
from coin_hts_pipelines.operations.backup import DirectoryTarget, create, find_backup, open_target
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.cli.test_backup import Say, house, say
from coin_hts_pipelines_tests.defs.helpers import forget_settings
from coin_hts_pipelines_tests.mail_server import webhook_server
from coin_hts_pipelines_tests.operations.backup.helpers import House
from coin_hts_pipelines_tests.operations.backup.test_restore import spoil

__all__ = ["house", "new_database", "say"]

# Runs `coin-hts backup ...` and dies at that call, as by SIGKILL.
_DYING = """
import os, signal, sys
from importlib import import_module
module, name = sys.argv[1].split(":")
setattr(import_module("coin_hts_pipelines.operations.backup." + module), name,
        lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
sys.argv = ["coin-hts", "backup", *sys.argv[2:]]
from coin_hts_pipelines import cli
cli.main()
"""


def alerts(database: Database) -> dict[str, tuple[str, str]]:
    """Kind and text of what lasts, by its title."""
    found = AlertOutbox(database, []).list(limit=100)
    return {one.alert.title: (one.alert.kind, one.alert.text) for one in found if one.lasts}


def spoil_candles(house: House) -> Path:
    """Flip a bit of candles in the newest backup: a dump would not be the same the next time."""
    made = find_backup(house.target, "latest")
    key = next(entry.key for entry in made.files if entry.path.endswith(".parquet"))
    spoil(house, key)
    return house.target.root / key


def die(house: House, step: str, *argv: str) -> None:
    house.database.dispose()
    open_database().dispose()
    done = subprocess.run(
        [sys.executable, "-c", _DYING, step, *argv], cwd=house.home, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_corrupted_byte_that_verify_finds(house: House, say: Say) -> None:
    made = say("create --json")
    spoil_candles(house)
    say("verify latest", status=1)
    kind, text = alerts(house.database)[f"backup {made['id']} is damaged"]
    assert kind == "backup_failed"
    assert "SHA-256" in text
    say("create")
    assert "ok" in say(f"verify {made['id']}"), "its bytes are there again"
    assert alerts(house.database) == {}


def test_a_restore_that_is_refused_for_damage(house: House, say: Say) -> None:
    say("create")
    place = spoil_candles(house)
    assert "damaged" in say("restore latest --force", status=1)
    assert "damaged" in alerts(house.database)["a restore failed"][1]
    made = say("create --json")
    place.unlink()
    assert "cannot be used" in say(f"restore {made['id']} --force", status=1)
    assert "cannot be used" in alerts(house.database)["a restore failed"][1]
    say("create")
    say("restore latest --force")
    assert alerts(house.database) == {}


def test_the_object_store_is_down(house: House, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "BACKUP_STORE": "s3",
        "S3_BUCKET": "bucket",
        "S3_ENDPOINT_URL": "http://127.0.0.1:1",
        "S3_ACCESS_KEY_ID": "key",
        "S3_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(f"COIN_HTS_{name}", value)
    forget_settings()
    say("create", status=1)
    assert alerts(house.database)["no backup was made"][0] == "backup_failed"


def test_a_full_disk(house: House, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryTarget, "store", full)
        say("create", status=1)
    assert "No space left" in alerts(house.database)["no backup was made"][1]
    say("create")
    assert alerts(house.database) == {}


def test_a_prune_that_fails(house: House, say: Say) -> None:
    made = say("create --json")
    (house.home / "backups" / f"{made['id']}.json").write_text("{}")
    say("prune", status=1)
    assert "nothing is pruned" in alerts(house.database)["old backups cannot be removed"][1]


@pytest.mark.parametrize("opening", [True, False], ids=["it does not start", "it goes"])
def test_without_postgres_it_is_sent_at_once(house: House, monkeypatch: pytest.MonkeyPatch, opening: bool) -> None:
    with webhook_server() as hook:
        monkeypatch.setenv("COIN_HTS_SLACK_WEBHOOK_URL", hook.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        forget_settings()

        def gone() -> Database:
            if opening:
                raise TransientError("the embedded Postgres does not start")
            return Database("postgresql+psycopg2://postgres@127.0.0.1:1/postgres", pool_size=1)

        monkeypatch.setattr(control, "open_database", gone)
        with pytest.raises(TransientError), control.alerting(*control.ALERTS[control.BACKUP_JOB]):
            create.create_backup(get_settings(), gone(), open_target(get_settings()))
        (said,) = map(str, hook.requests)
    assert "no backup was made" in said


def test_a_bug_is_a_failure_too(house: House) -> None:
    with pytest.raises(ZeroDivisionError), control.alerting("drill_failed", "k", "it failed"):
        1 // 0  # noqa: B018
    assert "ZeroDivisionError" in alerts(house.database)["it failed"][1]


def test_what_is_nobodys_failure(house: House, say: Say) -> None:
    say("restore 1999", status=2)
    say("drill", status=2)
    say("create")
    assert "--force" in say("restore latest", status=2)
    with open_target(get_settings()).exclusive():
        assert "another backup" in say("create", status=1)
    assert alerts(house.database) == {}


def test_a_drill_without_candles_failed(house: House, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    say("create")

    def none(*_: object, **__: object) -> None:
        raise NoCandles("there are none")

    monkeypatch.setattr("coin_hts_pipelines.operations.backup.drill._compute_again", none)
    say("drill", status=1)
    assert [kind for kind, _ in alerts(house.database).values()] == ["drill_failed"]


@pytest.mark.parametrize(
    ("step", "line", "title"),
    [
        ("create:dump_database", "create", "no backup was made"),
        ("prune:list_all", "prune", "old backups cannot be removed"),
        ("restore:load_database", "restore latest --force", "a restore failed"),
    ],
)
def test_one_that_was_killed_is_said_by_the_next_that_asks(
    house: House, say: Say, step: str, line: str, title: str
) -> None:
    say("create")
    die(house, step, *line.split())
    assert alerts(house.database) == {}
    control.note_killed()
    assert "killed" in alerts(house.database)[title][1]
    control.note_killed()
    assert [one.times for one in AlertOutbox(house.database, []).list(limit=100)] == [1]
    say(line)
    assert alerts(house.database) == {}


def test_one_that_is_at_work_is_not_dead(house: House) -> None:
    with control.alerting("backup_failed", "k", "it failed"):
        control.note_killed()
        with control.alerting("backup_failed", "k", "it failed"):  # it waits for nobody
            pass
        control.note_killed()
    assert alerts(house.database) == {}
    assert list((house.root / ".begun").iterdir()) == []


def test_a_note_that_cannot_be_removed_hides_no_failure(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        with (
            pytest.raises(TransientError, match="the real one"),
            control.alerting("backup_failed", "k", "it failed"),
        ):
            raise TransientError("the real one")
    assert "the real one" in alerts(house.database)["it failed"][1]


def test_nothing_starts_on_a_restore_that_was_interrupted(house: House, say: Say) -> None:
    made = say("create --json")
    (house.root / ".restore").mkdir()
    (house.root / ".restore" / "journal.json").write_text(
        json.dumps({"mark": "none", "id": made["id"], "old": [], "new": []})
    )
    with pytest.raises(PermanentError, match=f"backup restore {made['id']} --force"):
        prepare()
    say("create", status=1)
    assert "was interrupted" in alerts(house.database)["no backup was made"][1]
    say("restore latest --force")
    prepare()
