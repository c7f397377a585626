"""The engine alone, warm."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pandas as pd

from benchmarks.measure import Row, median_seconds
from coin_hts_pipelines.backtest import BacktestRequest, run_backtest
from coin_hts_pipelines.lake.sources import SampleSource
from coin_hts_pipelines.market import Span, Timeframe

_START = datetime(2024, 1, 1, tzinfo=UTC)


def hourly(bars: int) -> pd.DataFrame:
    """Sample candles, 1H."""
    return SampleSource().fetch("KRW-BTC", Timeframe.H1, Span(_START, _START + timedelta(hours=bars)))


def everything(candles: pd.DataFrame, request: BacktestRequest) -> None:
    """Signals, study, trades, equity, metrics, digests and the three tables."""
    result = run_backtest(candles, request)
    _ = result.signals, result.trades, result.equity, result.metrics, result.result_digest


def rows() -> Iterator[Row]:
    """Measure one backtest of 1,000 candles with each strategy."""
    candles = hourly(1000)
    for strategy in ("volume_zone_breakout", "volume_long_candle"):
        request = BacktestRequest(strategy, timeframe="1H")
        seconds = median_seconds(lambda request=request: everything(candles, request), times=50)
        yield Row(f"run_backtest, 1,000 bars, {strategy}", seconds * 1000, 5, "ms", "median of 50, tables included")
