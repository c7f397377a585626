"""Candles of the benchmarks: sample ones by the minute, and real ones where `../shared/data` is present."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pandas as pd

from benchmarks.measure import CHECKOUT
from coin_hts_pipelines.lake.sources import SampleSource
from coin_hts_pipelines.market import Span, Timeframe

START = datetime(2021, 1, 1, tzinfo=UTC)
YEAR_OF_MINUTES = 525_600

_SHARED = Path(os.environ.get("COIN_HTS_SHARED_DATA", CHECKOUT.parent / "shared" / "data"))
# Friendly to nothing: seven years of hours with gaps, a month of minutes.
_REAL = (("KRW-XRP", "1H"), ("KRW-BTC", "1M"))


@cache
def minutes(bars: int) -> pd.DataFrame:
    """Sample candles, 1M."""
    return SampleSource().fetch("KRW-BTC", Timeframe.M1, Span(START, START + timedelta(minutes=bars)))


@cache
def real() -> dict[str, tuple[str, pd.DataFrame]]:
    """Timeframe and candles by a name for the row; empty without the shared data."""
    found = {}
    for symbol, timeframe in _REAL:
        files = sorted((_SHARED / "candles" / symbol / timeframe).glob("*.parquet"))
        if files:
            frame = pd.concat(map(pd.read_parquet, files), ignore_index=True)
            found[f"{len(frame):,} real bars, {symbol} {timeframe}"] = (timeframe, frame)
    return found
