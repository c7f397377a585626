"""Candles changed outside Dagster's runs: recorded for exactly the years that changed, and followed from there."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import make_new_run_id

from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.changed_candles import Looked, changed_candles_sensor, look
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START, SYMBOLS
from coin_hts_pipelines.errors import TransientError
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.defs.helpers import forget_settings
from coin_hts_pipelines_tests.defs.test_automation import PRESETS, SYMBOL_LIST, YEARS, Automation, pairs
from coin_hts_pipelines_tests.lake.helpers import candles
from coin_hts_pipelines_tests.lake.test_year_files import await_a_later_stamp

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]

SECOND = 10**9
BTC, ETH, XRP = "KRW-BTC", "KRW-ETH", "KRW-XRP"
NOTHING: set[str] = set()


class World:
    """A store and an instance with two symbols, and the sensor's state from tick to tick."""

    def __init__(self, instance: dg.DagsterInstance, outside: Path) -> None:
        self.instance, self.outside = instance, outside
        self.store = CandleStore(get_settings().root)
        self.cursor: str | None = None
        self.said = ""
        self.instance.add_dynamic_partitions(SYMBOLS, [BTC, ETH])

    def fill(self, symbol: str, timeframe: str = "1D", start: str = "2022-01-01", bars: int = 1000) -> None:
        """Store bars; a thousand days are 2022 to 2024."""
        self.store.merge(symbol, timeframe, candles(bars, timeframe=timeframe, start=start), source="files")

    def change(self, symbol: str, year: int, timeframe: str = "1D") -> None:
        """Store other values of ten bars, as a repair does."""
        frame = candles(10, timeframe=timeframe, start=f"{year}-03-01", seed=year)
        self.store.merge(symbol, timeframe, frame, source="files")

    @property
    def watermarks(self) -> Any:
        """What the cursor says."""
        return json.loads(self.cursor or "{}")

    def path(self, symbol: str, timeframe: str, year: int) -> Path:
        return Path(self.store.files.path(symbol, Timeframe.parse(timeframe), year))

    def tick(self, *, later: float = 60.0) -> set[str]:
        """One tick, so many seconds from now: what was recorded, stored as the daemon does."""
        sensor = changed_candles_sensor(now=lambda: time.time_ns() + int(later * SECOND))
        answer: Any = sensor(dg.build_sensor_context(instance=self.instance, cursor=self.cursor))
        self.cursor, self.said = answer.cursor, str(answer.skip_reason.skip_message)
        return self.keep(answer.asset_events)

    def keep(self, events: list[dg.AssetMaterialization]) -> set[str]:
        """Store events and name their partitions."""
        for event in events:
            self.instance.report_runless_asset_event(event)
        named = [f"{event.asset_key.to_user_string()} {event.partition}" for event in events]
        assert len(set(named)) == len(named)
        return set(named)

    def look(
        self, store: CandleStore | None = None, watermarks: Any = None, tired: Callable[[], bool] = lambda: False
    ) -> Looked:
        """One look without the sensor."""
        timeframes = (Timeframe.D1, Timeframe.H1)
        now = time.time_ns() + 60 * SECOND
        return look(self.instance, store or self.store, timeframes, watermarks or {}, now=now, tired=tired)


@pytest.fixture
def empty(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("COIN_HTS_TIMEFRAMES", "1D,1H")
    monkeypatch.setenv("COIN_HTS_FIRST_YEAR", "2022")
    forget_settings()
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(instance, home / "outside")


@pytest.fixture
def world(empty: World) -> World:
    """Everything stored is recorded."""
    for symbol in (BTC, ETH):
        empty.fill(symbol)
    empty.fill(BTC, "1H", start="2023-12-31", bars=48)
    years = {f"candles_1d {symbol}|{year}" for symbol in (BTC, ETH) for year in (2022, 2023, 2024)}
    assert empty.tick() == {*years, "candles_1h KRW-BTC|2023", "candles_1h KRW-BTC|2024"}
    assert empty.tick() == NOTHING
    assert empty.said == "no candles have changed"
    # What a test changes now is later than what was looked at.
    newest = max(path.stat().st_ctime_ns for path in get_settings().root.rglob("*"))
    await_a_later_stamp(empty.outside.with_name("probe"), newest)
    return empty


# ---- what is a change


def repair(world: World) -> None:
    world.change(ETH, 2022)


def repair_two_years(world: World) -> None:
    world.change(ETH, 2022)
    world.change(ETH, 2024)


def repair_a_finer_timeframe(world: World) -> None:
    world.fill(BTC, "1H", start="2024-01-02", bars=24)


def add_a_year(world: World) -> None:
    world.fill(ETH, start="2025-01-01", bars=100)


def write_the_same_anew(world: World) -> None:
    table, metadata = world.store.files.read(ETH, Timeframe.D1, 2022)
    world.store.files.write(ETH, Timeframe.D1, 2022, table, metadata)


def touch(world: World) -> None:
    world.path(ETH, "1D", 2022).touch()


def copy_over_it(world: World) -> None:
    """The file is older than what it replaces, by the time it carries."""
    other = CandleStore(world.outside)
    other.merge(BTC, "1D", candles(365, start="2022-01-01", seed=1), source="files")
    shutil.copy(other.files.path(BTC, Timeframe.D1, 2022), world.path(ETH, "1D", 2022))
    os.utime(world.path(ETH, "1D", 2022), (SECOND, SECOND))


def move_a_timeframe_in(world: World) -> None:
    CandleStore(world.outside).merge(ETH, "1H", candles(48, timeframe="1H", start="2022-12-31"), source="files")
    (world.outside / ETH / "1H").rename(get_settings().root / ETH / "1H")


def store_an_unknown_symbol(world: World) -> None:
    world.fill(XRP)


def store_another_timeframe(world: World) -> None:
    world.fill(ETH, "4H", start="2022-01-01", bars=100)


def store_years_without_partitions(world: World) -> None:
    world.fill(ETH, start="2021-06-01", bars=100)
    world.fill(ETH, start="2099-06-01", bars=100)


def remove_a_year(world: World) -> None:
    world.path(ETH, "1D", 2022).unlink()


CHANGES: list[tuple[Callable[[World], None], set[str]]] = [
    (repair, {"candles_1d KRW-ETH|2022"}),
    (repair_two_years, {"candles_1d KRW-ETH|2022", "candles_1d KRW-ETH|2024"}),
    (repair_a_finer_timeframe, {"candles_1h KRW-BTC|2024"}),
    (add_a_year, {"candles_1d KRW-ETH|2025"}),
    (copy_over_it, {"candles_1d KRW-ETH|2022"}),
    (move_a_timeframe_in, {"candles_1h KRW-ETH|2022", "candles_1h KRW-ETH|2023"}),
    (write_the_same_anew, NOTHING),
    (touch, NOTHING),
    (store_an_unknown_symbol, NOTHING),
    (store_another_timeframe, NOTHING),
    (store_years_without_partitions, NOTHING),
    (remove_a_year, NOTHING),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_exactly_the_years_that_changed_are_recorded(
    world: World, change: Callable[[World], None], expected: set[str]
) -> None:
    change(world)
    assert world.tick() == expected
    assert world.tick() == NOTHING, "once"


def test_an_event_says_what_the_candles_are(world: World) -> None:
    world.change(ETH, 2022)
    (event,) = world.look().events
    assert {name: value.value for name, value in event.metadata.items()} == {
        "dagster/row_count": 365,
        "source": "files",
        "changed_by": "a file changed outside Dagster's runs",
        "candles_digest": world.store.digest(ETH, "1D", 2022),
    }
    assert event.tags == {"dagster/partition/symbol": ETH, "dagster/partition/year": "2022"}


def test_a_file_that_is_still_written_is_left(world: World) -> None:
    world.change(ETH, 2022)
    assert world.tick(later=0) == NOTHING
    assert world.tick(later=31) == {"candles_1d KRW-ETH|2022"}


def test_symbols_are_looked_at_whole_once_they_are_switched_on(world: World) -> None:
    world.fill(XRP)
    years = {f"candles_1d KRW-XRP|{year}" for year in (2022, 2023, 2024)}
    assert world.tick() == NOTHING
    world.instance.add_dynamic_partitions(SYMBOLS, [XRP])
    assert world.tick() == years
    world.instance.delete_dynamic_partition(SYMBOLS, XRP)
    assert world.tick() == NOTHING
    world.change(XRP, 2023)
    assert world.tick() == NOTHING
    world.instance.add_dynamic_partitions(SYMBOLS, [XRP])
    assert world.tick() == {"candles_1d KRW-XRP|2023"}


def test_partitions_of_no_symbol_do_no_harm(world: World) -> None:
    world.instance.add_dynamic_partitions(SYMBOLS, ["../x", "what is this"])
    world.change(ETH, 2022)
    assert world.tick() == {"candles_1d KRW-ETH|2022"}


BROKEN_CURSORS = ["", "{", "[]", "7", '"1D"', '{"1D": 7}', '{"1D": {"KRW-ETH": "x"}}', '{"1D": null}']


def test_a_broken_cursor_looks_at_everything_and_finds_what_changed(world: World) -> None:
    for number, cursor in enumerate(BROKEN_CURSORS):
        world.fill(ETH, start=f"2025-01-0{number + 1}", bars=1)
        world.cursor = cursor
        assert world.tick() == {"candles_1d KRW-ETH|2025"}
        assert world.tick() == NOTHING


def test_a_cursor_of_another_time_asks_for_what_is_served_now(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill(ETH, "4H", start="2022-01-01", bars=100)
    monkeypatch.setenv("COIN_HTS_TIMEFRAMES", "4H")
    forget_settings()
    assert world.tick() == {"candles_4h KRW-ETH|2022"}


# ---- what cannot be read


def test_a_damaged_file_is_reported_once_and_the_others_are_recorded(world: World) -> None:
    whole = world.path(ETH, "1D", 2023).read_bytes()
    world.path(ETH, "1D", 2023).write_bytes(b"PAR1")
    world.change(ETH, 2024)
    assert world.tick() == {"candles_1d KRW-ETH|2024"}
    assert "2023.parquet: cannot be read" in world.said
    assert world.tick() == NOTHING
    assert world.said == "no candles have changed", "it is said once"
    world.path(ETH, "1D", 2023).write_bytes(whole[:-1] + b"x")
    assert world.tick() == NOTHING
    assert "2023.parquet: cannot be read" in world.said, "it is another file now"
    world.path(ETH, "1D", 2023).write_bytes(whole)
    assert world.tick() == NOTHING, "it is what was recorded"
    assert world.said == "no candles have changed"


class Meddled(CandleStore):
    """A store in which something happens once while a year is read."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__(get_settings().root)
        self.happens: Callable[[], object] | None = happens

    def read_year(self, symbol: str, timeframe: str | Timeframe, year: int) -> pd.DataFrame:
        happens, self.happens = self.happens, None
        before = super().read_year(symbol, timeframe, year)
        if happens is not None:
            happens()
        return before


def test_what_may_be_read_later_is_looked_at_again(world: World) -> None:
    def fail() -> None:
        raise TransientError("cannot read: Input/output error; try again")

    world.change(ETH, 2022)
    world.change(BTC, 2024)
    first = world.look(Meddled(fail), world.watermarks)
    assert first.problems == ["cannot read: Input/output error; try again"]
    assert world.keep(first.events) == {"candles_1d KRW-BTC|2024"}, "the others are looked at"
    assert world.keep(world.look(watermarks=first.watermarks).events) == {"candles_1d KRW-ETH|2022"}


def test_what_changes_while_it_is_read_waits_until_it_is_still(world: World) -> None:
    def stamp_anew() -> None:
        path = world.path(ETH, "1D", 2022)
        await_a_later_stamp(path, path.stat().st_ctime_ns)

    world.change(ETH, 2022)
    done = world.look(Meddled(stamp_anew), world.watermarks)
    assert done.events == []
    assert world.keep(world.look(watermarks=done.watermarks).events) == {"candles_1d KRW-ETH|2022"}


def test_what_is_removed_while_it_is_looked_at_is_left(world: World) -> None:
    world.change(ETH, 2022)
    world.change(ETH, 2023)
    done = world.look(Meddled(world.path(ETH, "1D", 2023).unlink), world.watermarks)
    assert world.keep(done.events) == {"candles_1d KRW-ETH|2022"}
    assert done.problems == []


# ---- runs


def candles_of(*timeframes: str) -> frozenset[dg.AssetKey]:
    return frozenset(dg.AssetKey(f"candles_{timeframe}") for timeframe in timeframes)


ANYTHING, ASSETS = {"candles_1d KRW-ETH|2022", "candles_1h KRW-BTC|2024"}, "__ASSET_JOB"
HOURS_ONLY, DAYS_ONLY = {"candles_1h KRW-BTC|2024"}, {"candles_1d KRW-ETH|2022"}
RUNS: dict[str, tuple[str, frozenset[dg.AssetKey] | None, dict[str, str], set[str]]] = {
    "of a schedule": ("refresh_candles_1d", None, {}, HOURS_ONLY),
    "of another schedule": ("refresh_candles_1h", None, {}, DAYS_ONLY),
    "of the inbox": ("import_inbox", None, {}, NOTHING),
    "of the command line": (ASSETS, candles_of("1d"), {}, HOURS_ONLY),
    "of both timeframes": (ASSETS, candles_of("1d", "1h"), {}, NOTHING),
    "of a layer below": (ASSETS, frozenset([dg.AssetKey("indicators_1d")]), {}, ANYTHING),
    "of something else": ("clean_up_tasks", None, {}, ANYTHING),
    "over this symbol": (ASSETS, candles_of("1d"), {"dagster/partition": "KRW-ETH|2024"}, HOURS_ONLY),
    "over another symbol": (ASSETS, candles_of("1d"), {"dagster/partition": "KRW-BTC|2022"}, ANYTHING),
    "over a range": ("refresh_candles_1d", None, {RANGE_START: "KRW-BTC|2022", RANGE_END: "KRW-XRP|2022"}, HOURS_ONLY),
    "over another range": (
        "refresh_candles_1d",
        None,
        {RANGE_START: "KRW-BTC|2022", RANGE_END: "KRW-BTC|2024"},
        ANYTHING,
    ),
    "over a symbol that is gone": (
        "refresh_candles_1d",
        None,
        {RANGE_START: "KRW-BTC|2022", RANGE_END: "KRW-GONE|2024"},
        HOURS_ONLY,
    ),
}


def run_of(job: str, status: dg.DagsterRunStatus, **facts: Any) -> dg.DagsterRun:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="nowhere"))
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "repository"), job)
    return dg.DagsterRun(job, make_new_run_id(), status=status, remote_job_origin=origin, **facts)


@pytest.mark.parametrize(("job", "selection", "tags", "expected"), RUNS.values(), ids=RUNS)
def test_a_run_records_what_it_writes_by_itself(
    world: World, job: str, selection: frozenset[dg.AssetKey] | None, tags: dict[str, str], expected: set[str]
) -> None:
    world.instance.add_dynamic_partitions(SYMBOLS, [XRP])
    repair(world)
    repair_a_finer_timeframe(world)
    run = run_of(job, dg.DagsterRunStatus.STARTED, tags=tags, asset_selection=selection)
    world.instance.add_run(run)
    assert world.tick() == expected
    world.instance.report_run_failed(run)
    assert world.tick() == ANYTHING - expected, "it was killed before it could"


def test_only_a_run_that_is_not_finished_holds_its_candles(world: World) -> None:
    repair(world)
    ended = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
    for status in set(dg.DagsterRunStatus) - {dg.DagsterRunStatus.MANAGED}:
        run = run_of("refresh_candles_1d", status)
        world.instance.add_run(run)
        looked = world.look(watermarks=world.watermarks)
        assert (len(looked.events), looked.held) == ((1, 0) if status in ended else (0, 1)), status
        world.instance.delete_run(run.run_id)


def test_what_a_run_recorded_is_no_change(world: World) -> None:
    repair_two_years(world)
    seen: list[set[str]] = []

    class Watcher:
        """Ticks while the run is on."""

        def advance(self, asset: str, keys: int) -> None:
            """Look."""
            seen.append(world.tick())

        def finished(self, *_: object) -> None:
            """Do nothing."""

        def check_interrupt(self) -> None:
            """Do nothing."""

    job = build_defs(progress=Watcher()).resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(
        instance=world.instance,
        asset_selection=[dg.AssetKey("candles_1d")],
        tags={RANGE_START: "KRW-ETH|2022", RANGE_END: "KRW-ETH|2023"},
        run_config={"ops": {"candles_1d": {"config": {"source": "files"}}}},
    )
    assert done.success
    assert seen == [NOTHING]
    assert world.tick() == {"candles_1d KRW-ETH|2024"}, "the year the run was not about"


# ---- much at once


def test_many_series_are_looked_at_in_several_ticks_the_oldest_change_first(empty: World) -> None:
    for symbol in (ETH, BTC):
        empty.fill(symbol)
        empty.fill(symbol, "1H", bars=48)
    order, watermarks = [], {}
    for left in (3, 2, 1, 0, 0):
        done = empty.look(watermarks=watermarks, tired=lambda: True)
        watermarks = done.watermarks
        assert done.left == left
        order.append({name.split("|")[0] for name in empty.keep(done.events)})
    days, hours = [{f"candles_1d {symbol}"} for symbol in (ETH, BTC)], [{f"candles_1h {s}"} for s in (ETH, BTC)]
    assert order == [days[0], hours[0], days[1], hours[1], set()]


# ---- down to the rankings


def test_a_repair_asks_for_exactly_what_lies_below_it(empty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_TIMEFRAMES", "1D")
    forget_settings()
    automation = Automation(empty.instance)
    for symbol in SYMBOL_LIST:
        empty.fill(symbol, bars=365 * len(YEARS))
    empty.tick()
    assert automation.tick() == {}
    empty.change(ETH, 2022)
    assert empty.tick() == {"candles_1d KRW-ETH|2022"}
    # The first bars of a year look back into the one before it.
    below = {"KRW-ETH|2022", "KRW-ETH|2023"}
    assert automation.tick() == {"indicators_1d": below}
    automation.update("indicators_1d", *below)
    tests = pairs(PRESETS, [ETH])
    assert automation.tick() == {"backtests_1d": tests}
    automation.update("backtests_1d", *tests)
    assert automation.tick() == {"rankings_1d": set(PRESETS), "exports_1d": tests}
    automation.update("rankings_1d", *PRESETS)
    automation.update("exports_1d", *tests)
    assert (empty.tick(), automation.tick()) == (NOTHING, {})


def test_the_sensor_is_on_and_starts_nothing_itself() -> None:
    (sensor,) = [one for one in build_defs().sensors or () if one.name == "changed_candles"]
    assert isinstance(sensor, dg.SensorDefinition)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30
    assert sensor.targets == []
