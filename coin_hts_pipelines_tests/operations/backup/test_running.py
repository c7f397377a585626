"""A backup while four processes write, Postgres that goes away, and a disk that is full."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coin_hts_pipelines import CoinHtsError, TransientError
from coin_hts_pipelines.catalog import ResultIndex
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.operations.backup import (
    DirectoryTarget,
    create,
    create_backup,
    list_backups,
    restore,
    restore_backup,
    verify_backup,
)
from coin_hts_pipelines.operations.embedded_postgres import find_server, start_server, stop_server
from coin_hts_pipelines.results import Manifest as ResultManifest
from coin_hts_pipelines.results import ResultStore
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.operations.backup.helpers import PRESET, SYMBOLS, House, holds, make_house

KEEP = 3
# Each writer has a symbol to itself and shares another with all: candles merged, a result published, its row added.
_WRITER = """
import sys
from pathlib import Path
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines_tests.operations.backup.helpers import House

home, url, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
house = House(home, Database(url, pool_size=1))
print("ready", flush=True)
for seed in range(10_000):
    for symbol in (f"KRW-W{number}", "KRW-ALL"):
        house.merge(symbol, seed=1000 * number + seed)
        house.publish(symbol, 1000 * number + seed % 40, keep=3)
    print(seed, flush=True)
"""


@pytest.fixture
def writers(house: House) -> Iterator[list[subprocess.Popen[str]]]:
    argv = [sys.executable, "-c", _WRITER, str(house.home), house.url]
    started = [
        subprocess.Popen([*argv, str(number)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) for number in range(4)
    ]
    try:
        for one in started:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
            assert one.stdout.readline() == "0\n"
        yield started
    finally:
        for one in started:
            one.kill()
            one.wait()
            assert one.stdout is not None
            one.stdout.close()


def test_while_four_processes_write(house: House, empty: House, writers: list[subprocess.Popen[str]]) -> None:
    made = [house.back_up() for _ in range(3)]
    assert [one.poll() for one in writers] == [None] * 4
    assert made[0].tables["catalog.results"] < made[-1].tables["catalog.results"]
    for number, manifest in enumerate(made):
        place = House(empty.home / str(number), empty.database)
        empty.database.dispose()
        restore_backup(house.target, manifest, place.root, place.url, force=number > 0)
        assert place.files() == holds(manifest)
        check(place)


def check(place: House) -> None:
    """Every file of candles is whole, every home has its current result, and every row its directory."""
    store = CandleStore(place.root)
    assert {"KRW-W0", "KRW-W1", "KRW-W2", "KRW-W3", "KRW-ALL", *SYMBOLS} <= set(store.symbols())
    for symbol in store.symbols():
        assert len(store.load(symbol, "1D")) == 400
    results = ResultStore(place.root)
    rows: dict[str, list[Path]] = {}
    for row in ResultIndex(place.database).list(limit=100_000):
        rows.setdefault(row.symbols[0], []).append(Path(row.path))  # newest first
    for symbol, paths in rows.items():
        home = results.folder("1D", PRESET, symbol)
        directories = sorted((path for path in home.iterdir() if path.is_dir()), reverse=True)
        current = results.current("1D", PRESET, symbol)
        assert current in directories
        for folder in directories:
            ResultManifest.load(folder).check_files(folder)
        for path in paths:
            # One that is missing had been pruned: as many newer ones as are kept are there.
            assert path in directories or sum(folder.name > path.name for folder in directories) >= KEEP
        assert len(directories) >= min(KEEP, len(paths))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[House, Path]]:
    """A house with a server of its own, to be stopped and killed."""
    with tempfile.TemporaryDirectory(prefix="hts-bk-") as folder:
        pgdata = Path(folder) / "pg"
        house = make_house(tmp_path / "own", lambda: start_server(pgdata))
        try:
            yield house, pgdata
        finally:
            house.database.dispose()
            stop_server(pgdata)


@pytest.mark.parametrize("moment", ["before the dump", "in the dump"])
def test_postgres_restarted_during_a_backup(
    server: tuple[House, Path], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    house, pgdata = server
    good = house.back_up()
    house.publish(SYMBOLS[0], 80)
    real = create.dump_database if moment == "before the dump" else create.dump_database.__globals__["count_rows"]

    def stopping(*args):
        seen = real(*args) if moment == "in the dump" else None
        stop_server(pgdata)
        return seen or real(*args)

    with monkeypatch.context() as patched:
        if moment == "before the dump":
            patched.setattr(create, "dump_database", stopping)
        else:
            patched.setitem(create.dump_database.__globals__, "count_rows", stopping)
        with pytest.raises(TransientError):
            house.back_up()
    assert list_backups(house.target) == [good]
    assert find_server(pgdata) is None
    start_server(pgdata)
    house.database.dispose()
    assert holds(house.back_up()) == house.files()


def test_postgres_restarted_during_a_restore(server: tuple[House, Path]) -> None:
    house, pgdata = server
    made = house.back_up()
    house.publish(SYMBOLS[0], 81)
    files, rows = house.files(), house.rows()
    house.database.dispose()
    stopped: list[bool] = []

    def progress(share: float) -> None:
        if share >= 0.95 and not stopped:  # everything is executed, nothing committed
            stopped.append(stop_server(pgdata))

    with pytest.raises(TransientError):
        restore_backup(house.target, made, house.root, house.url, force=True, progress=progress)
    assert stopped == [True]
    start_server(pgdata)
    house.database.dispose()
    with pytest.raises(CoinHtsError, match="--force"):  # and takes back what was begun
        restore_backup(house.target, made, house.root, house.url)
    assert (house.files(), house.rows()) == (files, rows)
    house.database.dispose()
    restore_backup(house.target, made, house.root, house.url, force=True)
    assert house.files() == holds(made)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_under_the_backups(house: House, small_disk: Path) -> None:
    target = DirectoryTarget(small_disk / "backups")
    good = create_backup(house.settings, house.database, target)
    (house.root / "large").write_bytes(bytes(range(256)) * 16_384)
    with pytest.raises(TransientError, match="No space left"):
        create_backup(house.settings, house.database, target)
    assert list_backups(target) == [good]
    assert verify_backup(target, good) == []
    (house.root / "large").unlink()
    assert holds(create_backup(house.settings, house.database, target)) == house.files()


def test_a_full_disk_under_a_restore(
    house: House, empty: House, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (house.root / "large").write_bytes(bytes(range(256)) * 16_384)
    made = house.back_up()
    with pytest.raises(TransientError, match="MB more"):
        restore_backup(house.target, made, small_disk / "data", empty.url)
    monkeypatch.setattr(restore, "_check_room", lambda *_: None)  # somebody else fills it meanwhile
    with pytest.raises(TransientError, match="No space left"):
        restore_backup(house.target, made, small_disk / "data", empty.url)
    assert list((small_disk / "data").iterdir()) == []
    assert empty.rows() == {}


def test_from_a_disk_that_cannot_be_written(house: House, empty: House, small_disk: Path) -> None:
    target = DirectoryTarget(small_disk / "backups")
    made = create_backup(house.settings, house.database, target)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    restore_backup(target, made, empty.root, empty.url)
    assert empty.files() == holds(made)
    with pytest.raises(CoinHtsError, match="Read-only"):
        create_backup(house.settings, house.database, target)
