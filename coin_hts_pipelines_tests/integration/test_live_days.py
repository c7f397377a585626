"""Days of a live exchange with faults, in minutes: what the schedules and the universe sensor do at each due tick.

One clock drives the fake exchange, the ticks, the cut of the unfinished bar and the freshness checks. What the daemon
does, calling the functions and starting the runs, is done here, each run in this process.

`LIVE_DAYS=all` in the environment adds a day of all four timeframes, with 624 ticks.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._utils.schedules import cron_string_iterator

from coin_hts_pipelines import clock as package_clock
from coin_hts_pipelines.catalog import SymbolCatalog
from coin_hts_pipelines.control.instance import open_database, open_instance
from coin_hts_pipelines.control.launch import Launcher, LayerOutcome
from coin_hts_pipelines.control.presets import prepare_presets
from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.partitions import SYMBOLS, presets_name, split_key
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.sources import exchange, exchange_client
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.defs.helpers import forget_settings, home
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, Fault, Kind, ManualClock, MarketStore, made_candles

__all__ = ["home", "new_database"]

BEGIN = datetime(2024, 12, 28, 0, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
LISTED, GONE, OLD = "KRW-NEW", "KRW-ETH", "KRW-BTC"
HOUR = timedelta(hours=1)
QUICK = exchange.Backoff(attempts=3, seconds=5.0, first=0.001, longest=0.002)


@dataclass(frozen=True)
class Setting:
    """What is simulated: timeframes, how long, the history before it, and when the layers below the candles follow."""

    timeframes: tuple[str, ...]
    length: timedelta
    history: timedelta
    follows: timedelta

    @property
    def end(self) -> datetime:
        return BEGIN + self.length

    @property
    def finest(self) -> str:
        return min(self.timeframes, key=lambda text: Timeframe(text).delta)


HOURS = Setting(("1D", "1H"), 10 * DAY, 400 * DAY, 12 * HOUR)
MINUTES = Setting(("1D", "1H", "5M", "1M"), DAY, 40 * DAY, 6 * HOUR)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(BEGIN)


@pytest.fixture(
    params=[HOURS, *([MINUTES] if os.environ.get("LIVE_DAYS") == "all" else [])], ids=lambda one: one.finest
)
def setting(request: pytest.FixtureRequest) -> Setting:
    return request.param


@pytest.fixture
def market(setting: Setting) -> MarketStore:
    made = MarketStore()
    for seed, symbol in enumerate((OLD, GONE)):
        made.put(
            symbol, setting.finest, made_candles(BEGIN - setting.history, setting.end + HOUR, setting.finest, seed=seed)
        )
    return made


@pytest.fixture
def server(market: MarketStore, clock: ManualClock) -> Iterator[FakeUpbit]:
    with FakeUpbit(market, clock=clock, limit=None) as running:
        yield running


@pytest.fixture
def live(
    server: FakeUpbit,
    clock: ManualClock,
    home: Path,
    setting: Setting,
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dg.DagsterInstance]:
    """A project whose source is the fake exchange."""
    variables = {
        "COIN_HTS_DATABASE_URL": new_database(),
        "COIN_HTS_SOURCE": "exchange:upbit",
        "COIN_HTS_EXCHANGE_URL": server.base_url,
        "COIN_HTS_UNIVERSE": "all",
        "COIN_HTS_FIRST_YEAR": "2023",
        "COIN_HTS_TIMEFRAMES": ",".join(setting.timeframes),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # What the exchange takes minutes for is over at once here; a tick that fails is made good by the next.
    monkeypatch.setattr(exchange, "Backoff", lambda: QUICK)
    monkeypatch.setattr(exchange_client, "_LIMITS", {"upbit": ()})
    forget_settings()
    shutil.copy(CHECKOUT / "dagster.yaml", home)
    database = prepare_presets()  # as `coin-hts up` does
    with package_clock.simulated(clock), open_instance() as instance:
        yield instance
    database.dispose()


class Days:
    """Ticks of a live instance, and what came of them."""

    def __init__(self, instance: dg.DagsterInstance, clock: ManualClock) -> None:
        self.instance = instance
        self.clock = clock
        self.defs = build_defs()
        self.cursor: str | None = None
        self.happened: Counter[str] = Counter()
        self.evaluated: Any = None
        self.evaluate()  # what is there before the daemon starts is nobody's change

    def schedules(self) -> dict[str, Any]:
        """Refresh schedules by timeframe."""
        found = {one.name: one for one in self.defs.schedules or ()}
        return {text: found[f"refresh_candles_{text.lower()}_schedule"] for text in get_settings().timeframes}

    def due(self, start: datetime, end: datetime) -> list[tuple[datetime, str]]:
        """Every tick of every schedule in `(start, end)`, and one of the universe sensor each hour (``), in order."""
        ticks = [(start + number * HOUR + HOUR / 2, "") for number in range((end - start) // HOUR)]
        for timeframe, schedule in self.schedules().items():
            for at in cron_string_iterator(start.timestamp(), schedule.cron_schedule, schedule.execution_timezone):
                if at >= end:
                    break
                ticks.append((at.astimezone(UTC), timeframe))
        return sorted(ticks)

    def tick(self, at: datetime, what: str) -> None:
        """One tick that is due."""
        self.clock.set(at)
        if what:
            self.refresh(what)
        else:
            self.look_at_the_universe()

    def look_at_the_universe(self) -> str:
        """One tick of the universe sensor, and the runs it asks for."""
        sensor: Any = next(one for one in self.defs.sensors or () if one.name == "universe")
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        before = set(self.instance.get_dynamic_partitions(SYMBOLS))
        answer = sensor(context)
        for asked in answer.dynamic_partitions_requests or []:
            if isinstance(asked, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(asked.partitions_def_name, asked.partition_keys)
            else:
                for key in asked.partition_keys:
                    self.instance.delete_dynamic_partition(asked.partitions_def_name, key)
        self.cursor = answer.cursor
        self.happened["ticks of the universe sensor"] += 1
        self._execute(answer.run_requests or [])
        after = set(self.instance.get_dynamic_partitions(SYMBOLS))
        return " ".join(
            [*(f"+{one}" for one in sorted(after - before)), *(f"-{one}" for one in sorted(before - after))]
        )

    def refresh(self, timeframe: str) -> None:
        """One tick of a schedule, at this moment, and the runs it asks for."""
        context = dg.build_schedule_context(instance=self.instance, scheduled_execution_time=self.clock())
        self.happened[f"ticks {timeframe}"] += 1
        self._execute(self.schedules()[timeframe].evaluate_tick(context).run_requests)

    def _execute(self, requests: list[dg.RunRequest]) -> None:
        for request in requests:
            job = self.defs.resolve_job_def(request.job_name)
            done = job.execute_in_process(instance=self.instance, tags=request.tags, raise_on_error=False)
            self.happened["runs of candles"] += 1
            self.happened["of them failed"] += not done.success

    def evaluate(self) -> dict[str, set[str]]:
        """One look of the automation: partitions to be made anew, by asset."""
        result = dg.evaluate_automation_conditions(defs=self.defs, instance=self.instance, cursor=self.evaluated)
        self.evaluated = result.cursor
        keys = self.defs.resolve_asset_graph().get_all_asset_keys()
        found = {key.to_user_string(): result.get_requested_partitions(key) for key in keys}
        return {name: {str(key) for key in asked} for name, asked in found.items() if asked}

    def flow_down(self) -> None:
        """Run what the automation asks for, until it asks for nothing; every run must be good."""
        with Launcher(self.instance, self) as launcher:
            while asked := self.evaluate():
                for asset, keys in asked.items():
                    outcome = self._run(launcher, asset, keys)
                    assert not outcome.bad, outcome.bad
                    self.happened["runs below the candles"] += len(outcome.run_ids)

    def advance(self, asset: str, keys: int) -> None:
        """Nobody watches."""

    def _run(self, launcher: Launcher, asset: str, keys: set[str]) -> LayerOutcome:
        layer, _, suffix = asset.partition("_")
        if layer == "indicators":
            pairs = [(symbol, int(year)) for symbol, year in map(split_key, keys)]
            return launcher.run_symbol_years(asset, pairs, {})
        presets = presets_name(Timeframe.parse(suffix.upper()))
        if layer == "rankings":
            return launcher.run_presets(asset, keys, presets)
        return launcher.run_preset_symbols(asset, [split_key(key) for key in keys], presets)


def newest(asset: str, instance: dg.DagsterInstance) -> dict[str, int]:
    """Storage id of the newest materialization of each partition."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    return dict(instance.get_latest_storage_id_by_partition(dg.AssetKey(asset), kind))


def stored(timeframe: str, symbol: str) -> pd.DataFrame:
    return CandleStore(get_settings().root).load(symbol, timeframe)


def assert_is_the_exchange(market: MarketStore, symbol: str, timeframe: str, now: datetime) -> int:
    """Every closed candle since the first year is stored, and nothing else; returns how many."""
    truth = market.candles(symbol, timeframe, now)
    truth = truth[truth["timestamp"] >= pd.Timestamp(2023, 1, 1, tz="UTC")].reset_index(drop=True)
    columns = ["timestamp", "open", "high", "low", "close", "volume"]
    pd.testing.assert_frame_equal(stored(timeframe, symbol)[columns], truth[columns], check_dtype=False)
    return len(truth)


def test_every_candle_is_there_after_days_with_faults(
    live: dg.DagsterInstance, server: FakeUpbit, market: MarketStore, clock: ManualClock, setting: Setting
) -> None:
    days = Days(live, clock)
    assert days.look_at_the_universe() == f"+{OLD} +{GONE}"
    begun, followed = time.monotonic(), BEGIN
    for at, what in days.due(BEGIN, setting.end):
        # Six bad hours a day, in which each third request meets a fault; and every other day an hour of silence.
        server.faults.clear()
        if at.hour % 8 < 2:
            server.faults.draw(0.3, seed=at.toordinal() * 24 + at.hour, path="/v1/")
        if at.hour == 5 and at.day % 2:
            server.faults.add(Fault(Kind.STATUS, times=None, path="/v1/"))
        if at - BEGIN >= setting.length / 4 and not market.is_listed(LISTED):
            market.list(LISTED)  # a new market, two days old when it is first seen
            frame = made_candles(at.replace(hour=0, minute=0) - 2 * DAY, setting.end + HOUR, setting.finest, seed=9)
            market.put(LISTED, setting.finest, frame)
        if at - BEGIN >= setting.length / 3 and market.is_listed(GONE):
            market.delist(GONE)
        days.tick(at, what)
        if at - followed >= setting.follows:
            days.flow_down()
            followed = at
    server.faults.clear()
    clock.set(setting.end + timedelta(minutes=5))
    for timeframe in setting.timeframes:
        days.refresh(timeframe)
    days.flow_down()
    for timeframe in map(str.lower, setting.timeframes):
        candles, rankings = newest(f"candles_{timeframe}", live), newest(f"rankings_{timeframe}", live)
        assert rankings
        assert min(rankings.values()) > max(candles.values()), "rankings are newer than every candle"
        backtests = newest(f"backtests_{timeframe}", live)
        assert {split_key(key)[1] for key in backtests} == {OLD, GONE, LISTED}
    for symbol in (OLD, LISTED):
        for timeframe in setting.timeframes:
            days.happened["candles"] += assert_is_the_exchange(market, symbol, timeframe, clock())
    gone = {one.symbol: one for one in SymbolCatalog(open_database()).list()}
    assert gone[GONE].delisted_at is not None
    assert GONE in live.get_dynamic_partitions(SYMBOLS), "delisted ones are kept"
    server.forget_requests()
    days.refresh(setting.finest)
    asked = [request.params["market"] for request in server.requests]
    assert set(asked) == {OLD, LISTED}, "and not asked for any more"
    assert len(asked) <= 4
    print({**days.happened, "seconds": round(time.monotonic() - begun)})


def test_a_symbol_that_is_switched_off_is_not_fetched(
    live: dg.DagsterInstance, server: FakeUpbit, clock: ManualClock
) -> None:
    days = Days(live, clock)
    catalog = SymbolCatalog(open_database())
    days.look_at_the_universe()
    assert len(stored("1D", GONE)) > 39, "a new one is fetched at once"
    catalog.switch([GONE], on=False)
    assert days.look_at_the_universe() == f"-{GONE}"
    server.forget_requests()
    clock.advance(timedelta(days=1, minutes=2))
    days.refresh("1D")
    assert {request.params.get("market") for request in server.requests} == {OLD}
    before = len(stored("1D", GONE))
    catalog.switch([GONE], on=True)
    assert days.look_at_the_universe() == f"+{GONE}"
    assert len(stored("1D", GONE)) == before + 1, "what it missed is fetched at once"
