"""A restore brings everything back, or changes nothing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from coin_hts_pipelines import IntegrityError, TransientError
from coin_hts_pipelines.catalog import ResultIndex
from coin_hts_pipelines.catalog.presets import PresetCatalog, builtin_presets
from coin_hts_pipelines.control.presets import prepare_presets
from coin_hts_pipelines.errors import Cancelled, InvalidRequest, PermanentError
from coin_hts_pipelines.operations.backup import Manifest, find_backup, load, restore, restore_backup, verify_backup
from coin_hts_pipelines.results import ResultStore
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.defs.helpers import forget_settings, home
from coin_hts_pipelines_tests.operations.backup.helpers import PRESET, SYMBOLS, House, files_below, holds, rows_of

__all__ = ["home"]


def bring(house: House, made: Manifest, into: House, **options) -> None:
    restore_backup(house.target, made, into.root, into.url, **options)


def spoil(house: House, key: str) -> None:
    path = house.target.root / key
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_into_an_empty_place(house: House, empty: House) -> None:
    made = house.back_up()
    shares: list[float] = []
    bring(house, made, empty, progress=shares.append)
    assert empty.files() == holds(made) == house.files()
    before, after = house.rows(), empty.rows()
    assert before.pop("catalog.results") != after.pop("catalog.results")  # their paths
    assert after == before
    for row in ResultIndex(empty.database).list():
        assert Path(row.path).is_relative_to(empty.root)
        ResultStore(empty.root).read(Path(row.path)).manifest.check_files(Path(row.path))
    assert not (empty.root / ".restore").exists()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    # It goes on from there.
    empty.publish(SYMBOLS[0], 30)
    empty.back_up()
    with empty.database.session() as session:
        assert session.scalar(sa.text("INSERT INTO dagster.event_logs (event) VALUES ('x') RETURNING id")) == 501


def test_a_database_that_was_only_set_up_is_empty(house: House, empty: House) -> None:
    made = house.back_up()
    empty.database.upgrade()
    PresetCatalog(empty.database).add(builtin_presets(["1D", "1H"]))
    empty.database.dispose()
    bring(house, made, empty)
    assert empty.files() == holds(made)


def test_what_a_real_set_up_writes_is_not_work(
    house: House, home: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house.back_up()
    shutil.copy(CHECKOUT / "dagster.yaml", home)
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", new_database())
    forget_settings()
    database = prepare_presets()
    assert {"dagster.dynamic_partitions", "dagster.alembic_version"} <= {
        name for name, digest in rows_of(database).items() if not digest.startswith("0")
    }
    assert load.look_at(database).rows == ""
    with database.session() as session:
        session.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    database.dispose()
    restore_backup(house.target, made, home / "data", database.url.render_as_string(hide_password=False))
    assert files_below(home / "data") == holds(made)


@pytest.mark.parametrize("full", ["files", "rows", "own preset"])
def test_what_is_not_empty_is_refused_without_force(house: House, empty: House, full: str) -> None:
    made = house.back_up()
    if full == "files":
        (empty.root / "KRW-OLD").mkdir(parents=True)
        (empty.root / "KRW-OLD" / "x").write_text("mine")
    else:
        empty.database.upgrade()
        with empty.database.session() as session:
            if full == "rows":
                session.execute(sa.text("CREATE TABLE dagster.runs AS SELECT 1 AS id"))
            else:
                session.execute(
                    sa.text(
                        "INSERT INTO catalog.presets (name, timeframe, request, builtin) VALUES ('a','1D','{}',false)"
                    )
                )
    old_files = empty.files()
    old_rows = empty.rows()
    empty.database.dispose()
    with pytest.raises(InvalidRequest, match="--force"):
        bring(house, made, empty)
    assert (empty.files(), empty.rows()) == (old_files, old_rows)
    for name in ("postgres", "exports", "logs"):
        (empty.root / name).mkdir(parents=True)
        (empty.root / name / "stays").write_text(name)
    empty.database.dispose()
    bring(house, made, empty, force=True)
    assert empty.files() == holds(made)
    assert empty.rows().keys() == house.rows().keys()
    assert (empty.root / "exports" / "stays").read_text() == "exports"
    assert not (empty.root / "KRW-OLD").exists()


def test_over_what_has_changed_since(house: House) -> None:
    made, files, rows = house.back_up(), house.files(), house.rows()
    house.merge(SYMBOLS[0], seed=9)
    house.merge("KRW-NEW")
    house.publish(SYMBOLS[1], 9)
    with house.database.session() as session:
        session.execute(sa.text("CREATE TABLE catalog.later (n int)"))
    house.database.dispose()
    bring(house, made, house, force=True)
    assert (house.files(), house.rows()) == (files, rows)


def test_places_that_stay(house: House) -> None:
    made = house.back_up()
    (house.root / "mine" / "logs").mkdir(parents=True)
    (house.root / "mine" / "logs" / "l").write_text("x")
    house.database.dispose()
    restore_backup(house.target, made, house.root, house.url, force=True, without=[house.root / "mine" / "logs"])
    assert (house.root / "mine" / "logs" / "l").exists()


def test_what_stays_inside_what_comes_is_refused_before_anything_is_fetched(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    (house.root / "reports").mkdir()
    (house.root / "reports" / "r").write_text("r")
    made = house.back_up()
    (house.root / "reports" / "logs").mkdir()
    files = house.files()
    house.database.dispose()
    monkeypatch.setattr(restore, "_fetch", None)
    with pytest.raises(InvalidRequest, match=r"reports is in backup .* cannot be replaced"):
        restore_backup(house.target, made, house.root, house.url, force=True, without=[house.root / "reports" / "logs"])
    assert house.files() == files


def test_no_room_is_said_before_anything_is_fetched(
    house: House, empty: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house.back_up()
    monkeypatch.setattr(restore, "_fetch", None)
    monkeypatch.setattr(restore.shutil, "disk_usage", lambda place: SimpleNamespace(free=made.size))
    with pytest.raises(TransientError, match=r"needs \d+ MB on the disk of .*; free \d+ MB more"):
        bring(house, made, empty)
    assert empty.rows() == {}
    assert not (empty.root / ".restore").exists()


def test_while_somebody_is_connected_it_is_refused(house: House, empty: House, monkeypatch: pytest.MonkeyPatch) -> None:
    made = house.back_up()
    monkeypatch.setattr(restore, "_ALONE_SECONDS", 0)
    with empty.database.engine.connect(), pytest.raises(InvalidRequest, match="1 connections of other programs"):
        bring(house, made, empty)
    assert not empty.files()


@pytest.mark.parametrize("what", ["dump", "file"])
def test_a_damaged_byte_is_found_by_verify_and_refused(house: House, what: str) -> None:
    made = house.back_up()
    entry = next(entry for entry in made.files if entry.path.endswith("2023.parquet"))
    key = made.dump.key if what == "dump" else entry.key
    spoil(house, key)
    house.publish(SYMBOLS[0], 40)
    files, rows = house.files(), house.rows()
    (problem,) = verify_backup(house.target, made)
    assert problem.startswith("the dump: " if what == "dump" else f"{entry.path}: ")
    assert "damaged" in problem
    house.database.dispose()
    with pytest.raises(IntegrityError, match="damaged"):
        find_backup(house.target, made.id)
    # It was set aside; with its bytes back in place the restore itself finds the damage.
    (house.target.root / "damaged" / Path(key).name).rename(house.target.root / key)
    with pytest.raises(IntegrityError, match="damaged"):
        bring(house, made, house, force=True)
    assert (house.files(), house.rows()) == (files, rows)
    assert not (house.root / ".restore").exists()


def test_every_bad_object_is_named_and_so_is_a_missing_one(house: House) -> None:
    made = house.back_up()
    keys = sorted({entry.key for entry in made.files})
    spoil(house, keys[0])
    (house.target.root / keys[1]).unlink()
    assert len(verify_backup(house.target, made)) == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tables": {"catalog.results": 7}}, "catalog.results has not the 7 rows"),
        ({"catalog_revision": "9999"}, "update coin_hts_pipelines"),
        ({"dump": {"server": "19.1"}}, "not older"),
    ],
)
def test_a_manifest_that_does_not_fit_changes_nothing(house: House, change: dict, match: str) -> None:
    made = house.back_up()
    if "dump" in change:
        change = {"dump": made.dump.model_copy(update=change["dump"])}
    house.publish(SYMBOLS[0], 41)
    files, rows = house.files(), house.rows()
    house.database.dispose()
    with pytest.raises((TransientError, PermanentError), match=match):
        bring(house, made.model_copy(update=change), house, force=True)
    assert (house.files(), house.rows()) == (files, rows)


@pytest.mark.parametrize("path", ["../out", "/etc/out", ".env", "a/../../out"])
def test_a_path_that_leads_out_is_refused(house: House, empty: House, path: str) -> None:
    made = house.back_up()
    bad = made.model_copy(update={"files": (made.files[0].model_copy(update={"path": path}),)})
    with pytest.raises(InvalidRequest):
        bring(house, bad, empty)
    assert not (empty.home / "out").exists()
    assert not (empty.root / ".env").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_cancelled_one_changes_nothing(house: House, share: float) -> None:
    made = house.back_up()
    house.publish(SYMBOLS[0], 42)
    files, rows = house.files(), house.rows()
    house.database.dispose()
    told: list[float] = []
    with pytest.raises(Cancelled):
        bring(house, made, house, force=True, progress=told.append, cancelled=lambda: bool(told) and told[-1] >= share)
    assert (house.files(), house.rows()) == (files, rows)
    house.database.dispose()
    bring(house, made, house, force=True)
    assert house.files() == holds(made)


@pytest.mark.parametrize("number", range(1, 6))
def test_a_renaming_that_fails_is_taken_back(house: House, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    made = house.back_up()
    house.merge(SYMBOLS[0], seed=9)
    house.publish(SYMBOLS[1], 43)
    files, rows = house.files(), house.rows()
    house.database.dispose()
    real, count = Path.rename, 0

    def rename(self, target):
        nonlocal count
        count += 1
        if count == number:
            raise OSError(28, "No space left on device")
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(TransientError, match="No space left"):
            bring(house, made, house, force=True)
    assert (house.files(), house.rows()) == (files, rows)
    assert not (house.root / ".restore").exists()


def test_a_pg_restore_that_dies_in_the_middle_commits_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = house.back_up()
    tools = load.postgres_tools.find_tools(18)
    fake = tmp_path / "tools"
    fake.mkdir()
    (fake / "psql").symlink_to(tools.path("psql"))
    (fake / "pg_restore").write_text(f'#!/bin/sh\n{tools.path("pg_restore")} "$@" | head -c 3000\nexit 3\n')
    (fake / "pg_restore").chmod(0o755)
    monkeypatch.setattr(load.postgres_tools, "find_tools", lambda major: load.postgres_tools.Tools(fake, 18))
    files, rows = house.files(), house.rows()
    house.database.dispose()
    with pytest.raises(TransientError, match="pg_restore"):
        bring(house, made, house, force=True)
    assert (house.files(), house.rows()) == (files, rows)


def test_paths_of_other_places_stay(house: House, empty: House) -> None:
    with house.database.session() as session:
        session.execute(
            sa.text("UPDATE catalog.results SET path = :path WHERE symbols @> :symbol"),
            {"path": f"{house.root}-other/x", "symbol": f'["{SYMBOLS[0]}"]'},
        )
    bring(house, house.back_up(), empty)
    paths = {row.path for row in ResultIndex(empty.database).list()}
    assert f"{house.root}-other/x" in paths
    assert any(path.startswith(f"{empty.root}/results/1D/{PRESET}/{SYMBOLS[1]}/") for path in paths)


def test_a_root_with_an_apostrophe(house: House, empty: House) -> None:
    odd = House(empty.home / "o'brien's \\ disk", empty.database)
    bring(house, house.back_up(), odd)
    assert all(Path(row.path).is_dir() for row in ResultIndex(odd.database).list())


def test_a_user_with_a_password(house: House, empty: House) -> None:
    secret = "pa:ss/w'ö rd"
    with house.database.session() as session:
        session.execute(
            sa.text(
                f"CREATE ROLE backup_{os.getpid()} SUPERUSER LOGIN PASSWORD '{secret.replace(chr(39), chr(39) * 2)}'"
            )
        )
    try:
        url = house.database.url.set(username=f"backup_{os.getpid()}", password=secret)
        made = house.back_up()
        target = empty.database.url.set(username=url.username, password=secret)
        restore_backup(house.target, made, empty.root, target.render_as_string(hide_password=False))
        assert empty.files() == holds(made)
        assert quote(secret) not in re.sub("@.*", "", empty.database.label)
    finally:
        empty.database.dispose()
        with empty.database.session() as session:
            session.execute(sa.text(f"REASSIGN OWNED BY backup_{os.getpid()} TO postgres"))
            session.execute(sa.text(f"DROP ROLE backup_{os.getpid()}"))
