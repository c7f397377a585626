"""The first result in a cold process whose kernels are in numba's cache, imports included."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks.measure import CHECKOUT, Row, against, least_seconds, run_process
from benchmarks.reference import imports

# A frame that needs nothing but what the engine imports anyway.
_FIRST_RESULT = """
import numpy as np, pandas as pd
from coin_hts_pipelines.backtest import BacktestRequest, run_backtest
path = 100 + np.cumsum(np.random.default_rng(1).normal(0, 1, 1001)) / 10
opened, closed = path[:-1], path[1:]
candles = pd.DataFrame({
    "timestamp": pd.date_range("2024-01-01", periods=1000, freq="h", tz="UTC", unit="us"), "open": opened,
    "high": np.maximum(opened, closed), "low": np.minimum(opened, closed), "close": closed, "volume": np.ones(1000),
})
result = run_backtest(candles, BacktestRequest("volume_zone_breakout", timeframe="1H"))
_ = result.signals, result.trades, result.equity, result.result_digest
"""


def rows() -> Iterator[Row]:
    """Measure whole processes."""
    taken = against(lambda: run_process([sys.executable, "-c", _FIRST_RESULT], CHECKOUT), imports, times=3)
    yield Row(
        "first result, cold process, cached kernels",
        taken.seconds,
        "s",
        1.5,
        ratio=taken.ratio,
        bound=least_seconds(imports, times=3),
        bound_by="importing numpy, pandas and numba",
    )
