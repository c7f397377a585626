"""Days of a live exchange with faults, in minutes: what the schedules and the universe sensor do at each tick.

One clock drives the fake exchange, the ticks, the cut of the unfinished bar and the freshness checks. What the daemon
does, calling the functions and starting the runs, is done here, each run in this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from coin_hts_pipelines import clock as package_clock
from coin_hts_pipelines.catalog import Database, PresetCatalog, SymbolCatalog, builtin_presets
from coin_hts_pipelines.control.launch import Launcher, LayerOutcome
from coin_hts_pipelines.control.tasks import open_queue
from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.partitions import SYMBOLS, presets_name, split_key
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.sources import exchange, exchange_client
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.defs.helpers import forget_settings, home
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, Kind, ManualClock, MarketStore, made_candles

__all__ = ["home", "new_database"]

BEGIN = datetime(2024, 12, 28, 0, 0, 0, tzinfo=UTC)
DAYS = 10
LISTED = "KRW-NEW"
SOUND = tuple(kind for kind in Kind if kind not in (Kind.REVISED, Kind.LATENCY))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(BEGIN)


@pytest.fixture
def market() -> MarketStore:
    made = MarketStore()
    for seed, symbol in enumerate(("KRW-BTC", "KRW-ETH")):
        frame = made_candles(BEGIN - timedelta(days=400), BEGIN + timedelta(days=DAYS + 1), "1H", seed=seed)
        made.put(symbol, "1H", frame)
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
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dg.DagsterInstance]:
    """A project whose source is the fake exchange."""
    url = new_database()
    made = Database(url, pool_size=2)
    made.upgrade()
    made.dispose()
    variables = {
        "COIN_HTS_DATABASE_URL": url,
        "COIN_HTS_SOURCE": "exchange:upbit",
        "COIN_HTS_EXCHANGE_URL": server.base_url,
        "COIN_HTS_UNIVERSE": "all",
        "COIN_HTS_FIRST_YEAR": "2023",
        "COIN_HTS_TIMEFRAMES": "1D,1H",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # What the exchange takes minutes for is over at once here; a tick that fails is made good by the next.
    monkeypatch.setattr(exchange, "Backoff", lambda: QUICK)
    monkeypatch.setattr(exchange_client, "_LIMITS", {"upbit": ()})
    forget_settings()
    (home / "dagster").mkdir()
    with package_clock.simulated(clock), dg.DagsterInstance.local_temp(str(home / "dagster")) as instance:
        yield instance
    open_queue.cache_clear()


QUICK = exchange.Backoff(attempts=3, seconds=5.0, first=0.001, longest=0.002)


class Days:
    """Ticks of a live instance."""

    def __init__(self, instance: dg.DagsterInstance, clock: ManualClock) -> None:
        self.instance = instance
        self.clock = clock
        self.defs = build_defs()
        self.cursor: str | None = None
        self.failed_runs = 0
        self.runs = 0
        self.evaluated: Any = None
        database = Database(get_settings().database_url.get_secret_value(), pool_size=1)  # type: ignore[union-attr]
        PresetCatalog(database).add(builtin_presets(get_settings().timeframes), exist_ok=True)
        for timeframe in (Timeframe.D1, Timeframe.H1):
            names = [preset.name for preset in PresetCatalog(database).list(timeframe.value)]
            instance.add_dynamic_partitions(presets_name(timeframe), names)
        self.evaluate()  # what is there before the daemon starts is nobody's change

    def look_at_the_universe(self) -> str:
        """One tick of the universe sensor."""
        sensor = next(one for one in self.defs.sensors or () if one.name == "universe")
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        answer: Any = sensor(context)  # type: ignore[operator]
        for asked in answer.dynamic_partitions_requests or []:
            if isinstance(asked, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(asked.partitions_def_name, asked.partition_keys)
            else:
                for key in asked.partition_keys:
                    self.instance.delete_dynamic_partition(asked.partitions_def_name, key)
        self.cursor = answer.cursor
        return str(answer.skip_reason.skip_message)

    def refresh(self, timeframe: str) -> None:
        """One tick of a schedule, at this moment, and the runs it asks for."""
        schedule: Any = next(
            one for one in self.defs.schedules or () if one.name == f"refresh_candles_{timeframe}_schedule"
        )
        context = dg.build_schedule_context(instance=self.instance, scheduled_execution_time=self.clock())
        job = self.defs.resolve_job_def(f"refresh_candles_{timeframe}")
        for request in schedule.evaluate_tick(context).run_requests:
            done = job.execute_in_process(instance=self.instance, tags=request.tags, raise_on_error=False)
            self.runs += 1
            self.failed_runs += not done.success

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
                    self.runs += len(outcome.run_ids)

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


def newest(instance: dg.DagsterInstance, asset: str) -> dict[str, int]:
    """Storage id of the newest materialization of each partition."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    return dict(instance.get_latest_storage_id_by_partition(dg.AssetKey(asset), kind))


def stored(timeframe: str, symbol: str) -> pd.DataFrame:
    return CandleStore(get_settings().root).load(symbol, timeframe)


def assert_is_the_exchange(market: MarketStore, symbol: str, timeframe: str, now: datetime) -> None:
    """Every closed candle since the first year is stored, and nothing else."""
    truth = market.candles(symbol, timeframe, now)
    truth = truth[truth["timestamp"] >= pd.Timestamp(2023, 1, 1, tz="UTC")].reset_index(drop=True)
    columns = ["timestamp", "open", "high", "low", "close", "volume"]
    pd.testing.assert_frame_equal(stored(timeframe, symbol)[columns], truth[columns], check_dtype=False)


def test_every_candle_is_there_after_days_with_faults(
    live: dg.DagsterInstance, server: FakeUpbit, market: MarketStore, clock: ManualClock
) -> None:
    days = Days(live, clock)
    assert "switched on: KRW-BTC, KRW-ETH" in days.look_at_the_universe()
    assert list(live.get_dynamic_partitions(SYMBOLS)) == ["KRW-BTC", "KRW-ETH"]
    for day in range(DAYS):
        # Most days the exchange has a bad hour; ticks of which may fail.
        server.faults.draw(0.3, seed=day, kinds=SOUND, path="/v1/")
        clock.set(BEGIN + timedelta(days=day, minutes=2))
        days.refresh("1h")
        clock.set(BEGIN + timedelta(days=day, minutes=5))
        days.refresh("1d")
        server.faults.clear()
        clock.set(BEGIN + timedelta(days=day, hours=9, minutes=2))
        days.refresh("1h")
        if day == 2:  # a new market, two days old when it is first seen
            frame = made_candles(clock() - timedelta(days=2), BEGIN + timedelta(days=DAYS + 1), "1H", seed=9)
            market.list(LISTED)
            market.put(LISTED, "1H", frame)
        if day == 3:
            market.delist("KRW-ETH")
        days.look_at_the_universe()
        days.flow_down()
    clock.set(BEGIN + timedelta(days=DAYS, minutes=5))
    for timeframe in ("1d", "1h"):
        days.refresh(timeframe)
    days.flow_down()
    for suffix in ("1d", "1h"):
        candles, rankings = newest(live, f"candles_{suffix}"), newest(live, f"rankings_{suffix}")
        assert rankings
        assert min(rankings.values()) > max(candles.values()), "rankings are newer than every candle"
        backtests = newest(live, f"backtests_{suffix}")
        assert {split_key(key)[1] for key in backtests} == {"KRW-BTC", "KRW-ETH", LISTED}
    now = clock()
    for symbol in ("KRW-BTC", LISTED):
        for timeframe in ("1D", "1H"):
            assert_is_the_exchange(market, symbol, timeframe, now)
    gone = {one.symbol: one for one in SymbolCatalog(Database(get_settings().database_url.get_secret_value())).list()}  # type: ignore[union-attr]
    assert gone["KRW-ETH"].delisted_at is not None
    assert "KRW-ETH" in live.get_dynamic_partitions(SYMBOLS), "delisted ones are kept"
    assert len(stored("1H", "KRW-ETH")) > 7000
    server.forget_requests()
    days.refresh("1h")
    asked = [request.params["market"] for request in server.requests]
    assert set(asked) == {"KRW-BTC", LISTED}, "and not asked for any more"
    assert len(asked) <= 4
    print(json.dumps({"runs": days.runs, "failed": days.failed_runs}))


def test_a_symbol_that_is_switched_off_is_not_fetched(
    live: dg.DagsterInstance, server: FakeUpbit, clock: ManualClock
) -> None:
    days = Days(live, clock)
    days.look_at_the_universe()
    catalog = SymbolCatalog(Database(get_settings().database_url.get_secret_value()))  # type: ignore[union-attr]
    catalog.switch(["KRW-ETH"], on=False)
    assert "partitions removed: KRW-ETH" in days.look_at_the_universe()
    server.forget_requests()
    clock.advance(timedelta(hours=1, minutes=2))
    days.refresh("1d")
    assert {request.params.get("market") for request in server.requests} == {"KRW-BTC"}
    catalog.switch(["KRW-ETH"], on=True)
    assert "partitions made: KRW-ETH" in days.look_at_the_universe()
    days.refresh("1d")
    assert len(stored("1D", "KRW-ETH")) > 350
