"""From a (fake) exchange into the store: nothing twice, nothing lost, whatever goes wrong in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coin_hts_pipelines.catalog import Coverage, Database
from coin_hts_pipelines.errors import Cancelled, CoinHtsError, PermanentError, TransientError
from coin_hts_pipelines.lake import CandleStore, collector
from coin_hts_pipelines.lake.collector import Collector
from coin_hts_pipelines.lake.sources.exchange import Backoff, ExchangeSource
from coin_hts_pipelines.market import Span, Timeframe
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, Fault, Kind, ManualClock, MarketStore, made_candles

__all__ = ["_migrated", "database", "new_database"]

NOW = datetime(2024, 5, 15, 12, 30, 30, tzinfo=UTC)
START = NOW - timedelta(days=3)
QUICK = Backoff(attempts=3, seconds=10.0, first=0.001, longest=0.002)
# What a page may suffer without being believed: a revised candle looks as sound as the final one.
SOUND = tuple(kind for kind in Kind if kind is not Kind.REVISED)


@pytest.fixture(scope="module")
def made() -> pd.DataFrame:
    frame = made_candles(NOW - timedelta(days=4), NOW + timedelta(days=1))
    # Nobody traded for an hour, and now and then for a minute.
    hour = (frame["timestamp"] >= pd.Timestamp(NOW - timedelta(hours=30))) & (
        frame["timestamp"] < pd.Timestamp(NOW - timedelta(hours=29))
    )
    return frame[~hour & (frame.index % 17 != 0)].reset_index(drop=True)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def server(made: pd.DataFrame, clock: ManualClock) -> Iterator[FakeUpbit]:
    market = MarketStore()
    market.put("KRW-BTC", "1M", made)
    with FakeUpbit(market, clock=clock, limit=None) as running:
        yield running


@pytest.fixture
def ledger(database: Database) -> Iterator[Coverage]:
    yield Coverage(database)
    with database.session() as session:
        session.execute(sa.text("TRUNCATE catalog.coverage"))


@pytest.fixture
def collect(server: FakeUpbit, clock: ManualClock, ledger: Coverage, tmp_path: Path) -> Collector:
    source = ExchangeSource("upbit", server.base_url, clock, limits=(), limit_folder=tmp_path, backoff=QUICK)
    return Collector(source, CandleStore(tmp_path), ledger)


def stored(collect: Collector) -> pd.DataFrame:
    return collect.store.load("KRW-BTC", "1M")


def on_exchange(made: pd.DataFrame, until: datetime, start: datetime = START) -> pd.DataFrame:
    """Closed minutes of the truth."""
    closed = until.replace(second=0, microsecond=0)
    inside = (made["timestamp"] >= pd.Timestamp(start)) & (made["timestamp"] < pd.Timestamp(closed))
    return made[inside].reset_index(drop=True)


def assert_same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    columns = ["timestamp", "open", "high", "low", "close", "volume"]
    pd.testing.assert_frame_equal(left[columns], right[columns], check_dtype=False)


def pages_asked(server: FakeUpbit) -> int:
    return sum(request.path.startswith("/v1/candles/") for request in server.requests)


def test_everything_once(collect: Collector, server: FakeUpbit, made: pd.DataFrame) -> None:
    shares: list[float] = []
    done = collect.collect("KRW-BTC", Timeframe.M1, Span(START, None), progress=shares.append)
    truth = on_exchange(made, NOW)
    assert_same(stored(collect), truth)
    assert (done.fetched, done.added, done.changed) == (len(truth), len(truth), 0)
    assert done.written_years == {2024}
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert collect.store.source_of("KRW-BTC", "1M") == "exchange:upbit"


def test_what_is_complete_is_not_asked_for_again(collect: Collector, server: FakeUpbit, clock: ManualClock) -> None:
    collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    server.forget_requests()
    done = collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    # The newest closed bar alone: its last trades may still have been on their way.
    assert (done.fetched, done.added, done.changed) == (1, 0, 0)
    assert pages_asked(server) == 1
    clock.advance(timedelta(minutes=5))
    done = collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    assert done.added in (4, 5)
    assert pages_asked(server) <= 3


def test_the_minute_that_is_not_over_comes_the_next_time(
    collect: Collector, clock: ManualClock, made: pd.DataFrame
) -> None:
    collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    assert stored(collect)["timestamp"].iloc[-1] < pd.Timestamp(NOW.replace(second=0))
    later = clock.advance(timedelta(minutes=90))
    collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    assert_same(stored(collect), on_exchange(made, later))


def test_a_hole_in_the_ledger_is_fetched_and_nothing_else(
    collect: Collector, server: FakeUpbit, made: pd.DataFrame
) -> None:
    collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    hole = Span(NOW - timedelta(hours=20), NOW - timedelta(hours=18))
    collect.ledger.forget("exchange:upbit", "KRW-BTC", "1M", hole)  # type: ignore[attr-defined]
    server.forget_requests()
    done = collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    assert pages_asked(server) == 2, "the hole, and the newest bar"
    assert (done.added, done.changed) == (0, 0)
    assert 1 < done.fetched <= 122


@pytest.mark.parametrize("after", [1, 3, 7])
def test_a_cancel_keeps_what_was_fetched_and_the_next_one_goes_on(
    collect: Collector, server: FakeUpbit, made: pd.DataFrame, after: int
) -> None:
    with pytest.raises(Cancelled):
        collect.collect("KRW-BTC", Timeframe.M1, Span(START, None), cancelled=lambda: pages_asked(server) >= after + 4)
    kept = len(stored(collect)) if "KRW-BTC" in collect.store.symbols() else 0
    server.forget_requests()
    done = collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    assert done.added == len(on_exchange(made, NOW)) - kept
    assert done.fetched <= done.added + 1, "nothing that was stored is fetched again but the newest bar"
    assert_same(stored(collect), on_exchange(made, NOW))


def test_a_market_that_is_not_listed(collect: Collector) -> None:
    with pytest.raises(PermanentError, match="KRW-NONE"):
        collect.collect("KRW-NONE", Timeframe.M1, Span(START, None))
    assert collect.ledger.missing("exchange:upbit", "KRW-NONE", Timeframe.M1, Span(START, NOW))


def test_what_was_stored_and_not_noted_is_fetched_once_more(
    collect: Collector, made: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> None:
        raise TransientError("the catalog is away")

    monkeypatch.setattr(collector, "_BATCH_ROWS", 500)
    with monkeypatch.context() as patch:
        patch.setattr(Coverage, "add", lost)
        with pytest.raises(TransientError):
            collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    kept = len(stored(collect))
    assert kept >= 500
    done = collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    truth = on_exchange(made, NOW)
    assert (done.fetched, done.added) == (len(truth), len(truth) - kept)
    assert_same(stored(collect), truth)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 2**16),
    batch=st.sampled_from([1, 300, 50_000]),
    minutes=st.lists(st.integers(1, 700), min_size=1, max_size=3),
)
def test_after_the_faults_the_store_is_the_exchange(
    made: pd.DataFrame,
    database: Database,
    tmp_path_factory: pytest.TempPathFactory,
    share: float,
    seed: int,
    batch: int,
    minutes: list[int],
) -> None:
    clock, market = ManualClock(NOW), MarketStore()
    market.put("KRW-BTC", "1M", made)
    folder = tmp_path_factory.mktemp("lake")
    ledger = Coverage(database)
    with FakeUpbit(market, clock=clock, limit=None) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(collector, "_BATCH_ROWS", batch)
        source = ExchangeSource("upbit", server.base_url, clock, limits=(), limit_folder=folder, backoff=QUICK)
        collect = Collector(source, CandleStore(folder), ledger)
        try:
            for step in minutes:
                server.faults.draw(share, seed, kinds=SOUND, path="/v1/")
                with suppress(CoinHtsError):
                    collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
                clock.advance(timedelta(minutes=step))
            server.faults.clear()
            collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
            assert_same(stored(collect), on_exchange(made, clock()))
        finally:
            with database.session() as session:
                session.execute(sa.text("TRUNCATE catalog.coverage"))


def test_a_fault_that_lasts_is_an_error_and_not_a_hole(
    collect: Collector, server: FakeUpbit, made: pd.DataFrame
) -> None:
    server.faults.add(Fault(Kind.STATUS, times=None, skip=6, status=503))
    with pytest.raises(TransientError, match="503"):
        collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    server.faults.clear()
    collect.collect("KRW-BTC", Timeframe.M1, Span(START, None))
    assert_same(stored(collect), on_exchange(made, NOW))
