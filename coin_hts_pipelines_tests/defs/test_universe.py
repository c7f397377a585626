"""The universe sensor: the market list of a fake exchange, the switches, partitions, and runs for what is new."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from coin_hts_pipelines import clock as package_clock
from coin_hts_pipelines.catalog import Database, SymbolCatalog
from coin_hts_pipelines.defs import build_defs, universe
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START, SYMBOLS
from coin_hts_pipelines.lake.sources import exchange_client
from coin_hts_pipelines.lake.sources.calls import Backoff
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.defs.helpers import forget_settings, home
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, Fault, Kind, ManualClock, MarketStore

__all__ = ["_migrated", "database", "home", "new_database"]

NOW = datetime(2024, 7, 1, 0, 5, tzinfo=UTC)
MARKETS = ("KRW-BTC", "KRW-ETH", "KRW-SHIB", "BTC-ETH")

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    made = ManualClock(NOW)
    with package_clock.simulated(made):
        yield made


@pytest.fixture
def market() -> MarketStore:
    made = MarketStore()
    for symbol in MARKETS:
        made.list(symbol, english_name=symbol.lower())
    return made


@pytest.fixture
def server(market: MarketStore, clock: ManualClock) -> Iterator[FakeUpbit]:
    with FakeUpbit(market, clock=clock, limit=None) as running:
        yield running


@pytest.fixture
def settings(home: Path, database: Database, server: FakeUpbit, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A live project; change a variable and `forget_settings`."""
    variables = {
        "COIN_HTS_DATABASE_URL": database.url.render_as_string(hide_password=False),
        "COIN_HTS_SOURCE": "exchange:upbit",
        "COIN_HTS_EXCHANGE_URL": server.base_url,
        "COIN_HTS_FIRST_YEAR": "2023",
        "COIN_HTS_TIMEFRAMES": "1D,1H",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(universe, "_BACKOFF", Backoff(attempts=2, seconds=5.0, first=0.001, longest=0.002))
    monkeypatch.setattr(exchange_client, "_LIMITS", {"upbit": ()})
    forget_settings()
    return monkeypatch


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def look(instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    """One tick, with what Dagster does about its answer."""
    sensor: Any = next(one for one in build_defs().sensors or () if one.name == "universe")
    answer = sensor(dg.build_sensor_context(instance=instance, cursor=cursor))
    for asked in answer.dynamic_partitions_requests or []:
        if isinstance(asked, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions(asked.partitions_def_name, asked.partition_keys)
        else:
            for key in asked.partition_keys:
                instance.delete_dynamic_partition(asked.partitions_def_name, key)
    return answer


def partitions(instance: dg.DagsterInstance) -> list[str]:
    return list(instance.get_dynamic_partitions(SYMBOLS))


def switches(database: Database) -> dict[str, bool]:
    return {one.symbol: one.enabled for one in SymbolCatalog(database).list()}


@pytest.mark.parametrize(
    ("variables", "on", "known"),
    [
        ({}, {"KRW-BTC", "KRW-ETH"}, {"KRW-BTC", "KRW-ETH", "KRW-SHIB"}),
        ({"COIN_HTS_SYMBOLS": "KRW-SHIB,KRW-NOWHERE"}, {"KRW-SHIB"}, {"KRW-BTC", "KRW-ETH", "KRW-SHIB"}),
        ({"COIN_HTS_UNIVERSE": "all"}, {"KRW-BTC", "KRW-ETH", "KRW-SHIB"}, {"KRW-BTC", "KRW-ETH", "KRW-SHIB"}),
        ({"COIN_HTS_UNIVERSE": "all", "COIN_HTS_QUOTE": "btc"}, {"BTC-ETH"}, {"BTC-ETH"}),
        ({"COIN_HTS_UNIVERSE": "all", "COIN_HTS_QUOTE": "all"}, set(MARKETS), set(MARKETS)),
    ],
    ids=["nine by default", "a list", "all", "another quote", "every quote"],
)
def test_new_markets_are_registered_and_those_wanted_get_a_partition(
    settings: pytest.MonkeyPatch,
    instance: dg.DagsterInstance,
    database: Database,
    variables: dict[str, str],
    on: set[str],
    known: set[str],
) -> None:
    for name, value in variables.items():
        settings.setenv(name, value)
    forget_settings()
    look(instance)
    assert set(partitions(instance)) == on
    assert switches(database) == {symbol: symbol in on for symbol in known}


def test_what_is_new_is_fetched_at_once(settings: pytest.MonkeyPatch, instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions(SYMBOLS, ["KRW-BY-HAND"])
    runs = [(run.job_name, run.tags[RANGE_START], run.tags[RANGE_END]) for run in look(instance).run_requests]
    assert runs == [
        ("refresh_candles_1d", "KRW-BTC|2023", "KRW-ETH|2024"),
        ("refresh_candles_1h", "KRW-BTC|2023", "KRW-ETH|2024"),
    ]
    assert not look(instance).run_requests, "once"


def test_switches_are_followed_between_two_looks_at_the_list(
    settings: pytest.MonkeyPatch, instance: dg.DagsterInstance, database: Database, server: FakeUpbit
) -> None:
    cursor = look(instance).cursor
    server.forget_requests()
    SymbolCatalog(database).switch(["KRW-ETH"], on=False)
    answer = look(instance, cursor)
    assert "partitions removed: KRW-ETH" in answer.skip_reason.skip_message
    assert partitions(instance) == ["KRW-BTC"]
    SymbolCatalog(database).switch(["KRW-SHIB"], on=True)
    answer = look(instance, answer.cursor)
    assert partitions(instance) == ["KRW-BTC", "KRW-SHIB"]
    assert [run.tags[RANGE_START] for run in answer.run_requests] == ["KRW-SHIB|2023"] * 2
    assert look(instance, answer.cursor).skip_reason.skip_message == "nothing has changed"
    assert not server.requests, "the list is taken over once an hour"


def test_the_list_is_taken_over_each_hour(
    settings: pytest.MonkeyPatch,
    instance: dg.DagsterInstance,
    database: Database,
    server: FakeUpbit,
    market: MarketStore,
    clock: ManualClock,
) -> None:
    cursor = look(instance).cursor
    market.delist("KRW-BTC")
    clock.advance(timedelta(minutes=59))
    assert look(instance, cursor).skip_reason.skip_message == "nothing has changed"
    clock.advance(timedelta(minutes=1))
    answer = look(instance, cursor)
    assert answer.skip_reason.skip_message == "delisted: KRW-BTC"
    assert "KRW-BTC" in partitions(instance), "it is kept"
    market.list("KRW-BTC")
    clock.advance(timedelta(hours=1))
    assert look(instance, answer.cursor).skip_reason.skip_message == "listed again: KRW-BTC"
    assert switches(database)["KRW-BTC"]


@pytest.mark.parametrize("kind", [Kind.STATUS, Kind.RESET_BEFORE, Kind.TRUNCATED_JSON, Kind.HTML_PAGE])
def test_without_a_list_nothing_is_delisted_and_the_next_tick_asks_again(
    settings: pytest.MonkeyPatch,
    instance: dg.DagsterInstance,
    database: Database,
    server: FakeUpbit,
    clock: ManualClock,
    kind: Kind,
) -> None:
    cursor = look(instance).cursor
    SymbolCatalog(database).switch(["KRW-SHIB"], on=True)
    clock.advance(timedelta(hours=1))
    server.faults.add(Fault(kind, times=None, path="/v1/market/all"))
    answer = look(instance, cursor)
    assert answer.cursor == cursor
    assert "KRW-SHIB" in partitions(instance), "what needs no list goes on"
    failed = look(instance, cursor).skip_reason.skip_message
    assert "the market list cannot be taken over" in failed
    assert "\n" not in failed
    server.faults.clear()
    answer = look(instance, cursor)
    assert answer.skip_reason.skip_message == "nothing has changed"
    assert json.loads(answer.cursor)["synchronized"] == clock().isoformat()
    assert all(one.delisted_at is None for one in SymbolCatalog(database).list())


@pytest.mark.parametrize("cursor", ["", "no json", "[]", "null"])
def test_a_cursor_of_something_else_is_none(
    settings: pytest.MonkeyPatch, instance: dg.DagsterInstance, cursor: str
) -> None:
    look(instance, cursor)
    assert partitions(instance) == ["KRW-BTC", "KRW-ETH"]


def test_without_a_live_source_only_the_switches_count(
    settings: pytest.MonkeyPatch, instance: dg.DagsterInstance, database: Database, server: FakeUpbit
) -> None:
    settings.setenv("COIN_HTS_SOURCE", "files")
    forget_settings()
    SymbolCatalog(database).add("upbit", ["KRW-ADA"])
    answer = look(instance)
    assert partitions(instance) == ["KRW-ADA"]
    assert not answer.run_requests
    assert not server.requests
