"""`run_backtest` with everything on 1,000 bars, warm."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from benchmarks.backtest_year import LONG, ZONE, everything
from benchmarks.candles import minutes
from benchmarks.measure import Row, against, least_seconds
from benchmarks.reference import interpreter
from coin_hts_pipelines.backtest import BacktestRequest, BacktestResult


def _frames_ms(result: BacktestResult) -> float:
    """Milliseconds pandas needs for the three tables when every column is ready."""
    tables = [{name: frame[name].array for name in frame} for frame in (result.signals, result.trades, result.equity)]
    return least_seconds(lambda: [pd.DataFrame(columns) for columns in tables], times=50) * 1000


def rows() -> Iterator[Row]:
    """Measure both strategies."""
    candles = minutes(1000)
    for strategy in (ZONE, LONG):
        request = BacktestRequest(strategy, timeframe="1M")
        taken = against(lambda request=request: everything(candles, request), interpreter, times=30)
        yield Row(
            f"run_backtest, 1,000 bars, {strategy}",
            taken.seconds * 1000,
            "ms",
            2,
            ratio=taken.ratio,
            bound=_frames_ms(everything(candles, request)),
            bound_by="pandas: three frames of ready columns",
        )
