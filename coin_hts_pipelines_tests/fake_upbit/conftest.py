"""A fake exchange with a small market, on a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, ManualClock, MarketStore, made_candles
from coin_hts_pipelines_tests.fake_upbit.raw_client import RawClient

# Half-way through a minute, an hour, a day, a week and a month.
NOW = datetime(2024, 5, 15, 12, 30, 30, tzinfo=UTC)


@pytest.fixture(scope="session")
def made() -> pd.DataFrame:
    """Minutes of a month back and a day ahead."""
    return made_candles(NOW - timedelta(days=30), NOW + timedelta(days=1), price=90_000_000.0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def server(made: pd.DataFrame, clock: ManualClock) -> Iterator[FakeUpbit]:
    market = MarketStore()
    market.put("KRW-BTC", "1M", made)
    market.list("KRW-NEW", korean_name="새것", english_name="New", warning=True)
    market.put("KRW-OLD", "1M", made)
    market.delist("KRW-OLD")
    with FakeUpbit(market, clock=clock) as running:
        yield running


@pytest.fixture
def client(server: FakeUpbit) -> Iterator[RawClient]:
    with RawClient(server.base_url) as opened:
        yield opened
