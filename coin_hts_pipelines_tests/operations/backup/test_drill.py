"""The restore drill: what it finds, what it leaves alone, and that nothing of it stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from coin_hts_pipelines.backtest import BacktestRequest, run_backtest
from coin_hts_pipelines.catalog import Database, ResultIndex
from coin_hts_pipelines.errors import (
    Cancelled,
    CoinHtsError,
    IntegrityError,
    InvalidRequest,
    PermanentError,
    TransientError,
)
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.atomic import locked
from coin_hts_pipelines.operations.backup import drill, drill_backup, last_drill, list_all, list_backups, prune_backups
from coin_hts_pipelines.operations.backup.drill import SCRATCH
from coin_hts_pipelines.operations.backup.prune import Keep
from coin_hts_pipelines.results import ResultStore
from coin_hts_pipelines_tests.operations.backup.helpers import PRESET, SYMBOLS, House, holds
from coin_hts_pipelines_tests.operations.backup.killed import run_and_die


def publish_computed(house: House, symbol: str) -> str:
    """A result of the candles that are stored; its id."""
    request = BacktestRequest("volume_long_candle", {"hold_period_bars": 3})
    result = run_backtest(CandleStore(house.root).load(symbol, "1D"), request)
    saved = ResultStore(house.root).save(
        result, symbol, preset=PRESET, candle_source="files", synthetic=False, started=datetime.now(UTC)
    )
    ResultIndex(house.database).add([(saved.folder, saved.manifest)])
    return saved.manifest.id


def servers_in(folder: Path) -> list[str]:
    """Command lines of the Postgres processes below a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if "postgres" in line and str(folder) in line]


def nothing_is_left(house: House) -> None:
    assert servers_in(house.root / SCRATCH) == []
    assert not (house.root / SCRATCH).exists()


def test_a_good_backup(house: House) -> None:
    computed = publish_computed(house, SYMBOLS[0])
    house.publish(SYMBOLS[1], 7)  # newer, of candles that are no longer there
    made = house.back_up()
    files, rows = house.files(), house.rows()
    shares: list[float] = []
    report = drill_backup(house.settings, house.target, progress=shares.append)
    assert (report.passed, report.problem, report.backup) == (True, None, made.id)
    assert (report.files, report.bytes) == (len(made.files), made.size)
    assert (report.tables, report.rows) == (len(made.tables), sum(made.tables.values()))
    assert (report.results, report.recomputed) == (4, computed)
    assert report.started_at < report.finished_at
    assert last_drill(house.target) == report
    assert (house.files(), house.rows()) == (files, rows)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    nothing_is_left(house)
    # Its report is neither a backup nor a leftover of one.
    assert [one.id for one in list_all(house.target)] == [made.id]
    prune_backups(house.target, Keep(1, 0, 0))
    assert last_drill(house.target) == report
    assert holds(house.back_up()) == holds(made)


def _no_results(house: House) -> None:
    with house.database.session() as session:
        session.execute(sa.text("DELETE FROM catalog.results"))


def test_without_a_result_there_is_none_to_compute(house: House) -> None:
    _no_results(house)
    house.back_up()
    report = drill_backup(house.settings, house.target)
    assert (report.passed, report.results, report.recomputed) == (True, 0, None)


def test_a_result_of_another_version_is_not_computed_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.back_up()
    with pytest.raises(IntegrityError, match="none of the newest 2 results can be computed again"):
        drill_backup(house.settings, house.target)
    monkeypatch.setattr("coin_hts_pipelines.strategies.volume_zone_breakout.VolumeZoneBreakout.version", "9.9")
    assert drill_backup(house.settings, house.target).recomputed is None


def _damage(house: House) -> None:
    path = max((house.home / "backups" / "objects").rglob("*/*"), key=lambda one: one.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _row_says_another(house: House) -> None:
    with house.database.session() as session:
        session.execute(sa.text("UPDATE catalog.results SET result_digest = 'x' WHERE preset = 'daily'"))


def _both_say_another(house: House) -> None:
    (folder,) = (path.parent for path in house.root.glob(f"results/1D/{PRESET}/{SYMBOLS[0]}/*/manifest.json"))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "result_digest": "falsified"}))
    with house.database.session() as session:
        session.execute(
            sa.text("UPDATE catalog.results SET result_digest = 'falsified' WHERE id = :id"), {"id": manifest["id"]}
        )


def _no_manifest(house: House) -> None:
    for path in house.root.glob("results/**/manifest.json"):
        path.write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "before", "said"),
    [
        (_damage, False, "damaged"),
        (_row_says_another, True, "its row says another"),
        (_no_manifest, True, "cannot be read after the restore"),
        (_both_say_another, True, "computed again has the digest"),
    ],
)
def test_what_it_finds(house: House, spoil: Callable[[House], None], before: bool, said: str) -> None:
    for folder in house.root.glob(f"results/1D/{PRESET}/*"):
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    _no_results(house)
    publish_computed(house, SYMBOLS[0])
    if before:
        spoil(house)
    made = house.back_up()
    if not before:
        spoil(house)
    files = house.files()
    with pytest.raises(IntegrityError, match=said):
        drill_backup(house.settings, house.target)
    report = last_drill(house.target)
    assert report is not None
    assert (report.passed, report.backup) == (False, made.id)
    assert said in (report.problem or "")
    assert house.files() == files
    nothing_is_left(house)


def _lose(house: House, symbol: str) -> None:
    """Remove the directories of the results of a symbol; their rows stay."""
    for folder in house.root.glob(f"results/1D/{PRESET}/{symbol}/*/"):
        shutil.rmtree(folder)


@pytest.mark.parametrize("symbols", [SYMBOLS, SYMBOLS[1:]], ids=["all", "the newest of one"])
def test_results_that_are_not_in_the_backup(house: House, symbols: tuple[str, ...]) -> None:
    publish_computed(house, SYMBOLS[0])
    for symbol in symbols:
        _lose(house, symbol)
    house.back_up()
    with pytest.raises(IntegrityError, match="is not there after the restore"):
        drill_backup(house.settings, house.target)
    nothing_is_left(house)


def test_older_results_may_have_been_pruned(house: House) -> None:
    oldest = house.publish(SYMBOLS[0], 3)
    publish_computed(house, SYMBOLS[0])
    shutil.rmtree(oldest)
    house.back_up()
    assert drill_backup(house.settings, house.target).passed


def test_the_newest_is_tried_and_not_an_older_good_one(house: House) -> None:
    publish_computed(house, SYMBOLS[0])
    house.back_up()
    house.merge(SYMBOLS[1], seed=9)
    newest = house.back_up()
    (house.target.root / newest.dump.key).unlink()
    with pytest.raises(IntegrityError, match=f"backup {newest.id} cannot be used"):
        drill_backup(house.settings, house.target)
    report = last_drill(house.target)
    assert report is not None
    assert not report.passed


def test_results_without_candles_are_a_failed_drill_and_no_bad_request(house: House) -> None:
    publish_computed(house, SYMBOLS[0])
    for symbol in SYMBOLS:
        shutil.rmtree(house.root / symbol)
    house.back_up()
    with pytest.raises(PermanentError) as failed:
        drill_backup(house.settings, house.target)
    assert not isinstance(failed.value, InvalidRequest)
    report = last_drill(house.target)
    assert report is not None
    assert not report.passed


def test_a_bug_is_a_failed_drill(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.back_up()
    monkeypatch.setattr(drill, "_compare_rows", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        drill_backup(house.settings, house.target)
    report = last_drill(house.target)
    assert report is not None
    assert "ZeroDivisionError" in str(report.problem)
    nothing_is_left(house)


def test_what_a_killed_one_left_goes_with_the_next_backup(house: House) -> None:
    house.back_up()
    run_and_die(house, "drill", "restore:_fetch")
    assert servers_in(house.root / SCRATCH)
    house.back_up()
    nothing_is_left(house)
    with locked(house.root / SCRATCH):  # one that is at work is left alone
        (house.root / SCRATCH).mkdir()
        house.back_up()
        assert (house.root / SCRATCH).exists()


def test_a_row_that_is_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.back_up()
    real = drill.restore_backup

    def losing(target, backup, root, url, **options):
        real(target, backup, root, url, **options)
        other = Database(url, pool_size=1)
        with other.session() as session:
            session.execute(sa.text("DELETE FROM dagster.event_logs WHERE id = 7"))
        other.dispose()

    monkeypatch.setattr(drill, "restore_backup", losing)
    with pytest.raises(IntegrityError, match=r"table dagster.event_logs has 499 rows .* says 500"):
        drill_backup(house.settings, house.target)
    nothing_is_left(house)


def test_no_backup_is_a_failed_drill(house: House) -> None:
    with pytest.raises(InvalidRequest, match="latest"):
        drill_backup(house.settings, house.target)
    report = last_drill(house.target)
    assert report is not None
    assert (report.passed, report.backup) == (False, None)


def test_a_backup_under_way_is_waited_for_by_whoever_asked(house: House) -> None:
    house.back_up()
    with house.target.exclusive(), pytest.raises(TransientError, match="another backup"):
        drill_backup(house.settings, house.target)
    assert last_drill(house.target) is None
    nothing_is_left(house)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_cancelled_one_leaves_nothing(house: House, share: float) -> None:
    house.back_up()
    asked: list[float] = []
    with pytest.raises(Cancelled):
        drill_backup(
            house.settings, house.target, progress=asked.append, cancelled=lambda: bool(asked) and asked[-1] >= share
        )
    assert last_drill(house.target) is None
    nothing_is_left(house)


@pytest.mark.parametrize(
    "step", ["drill:restore_backup", "drill:_compare_rows", "drill:_keep", "restore:_fetch", "load:_say"]
)
def test_killed_in_the_middle_the_next_one_begins_anew(house: House, step: str) -> None:
    publish_computed(house, SYMBOLS[0])
    house.back_up()
    files, rows = house.files(), house.rows()
    run_and_die(house, "drill", step)
    assert bool(servers_in(house.root / SCRATCH)) == (step != "drill:_keep")
    assert last_drill(house.target) is None
    assert drill_backup(house.settings, house.target).passed
    assert (house.files(), house.rows()) == (files, rows)
    assert len(list_backups(house.target)) == 1
    nothing_is_left(house)


def test_a_full_disk_is_said_although_it_cannot_be_kept(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.back_up()

    def full(*_: object, **__: object) -> None:
        raise TransientError("cannot write: No space left on device")

    monkeypatch.setattr(drill, "restore_backup", full)
    monkeypatch.setattr(type(house.target), "store", full)
    with pytest.raises(CoinHtsError, match="No space left"):
        drill_backup(house.settings, house.target)
    nothing_is_left(house)


def test_what_it_needs_is_never_in_a_backup(house: House, tmp_path: Path) -> None:
    (house.root / SCRATCH / "data").mkdir(parents=True)
    (house.root / SCRATCH / "data" / "x.parquet").write_text("x")
    assert not [entry.path for entry in house.back_up().files if SCRATCH in entry.path]
