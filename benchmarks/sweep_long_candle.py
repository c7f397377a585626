"""Sweep of 1,000 combinations of `volume_long_candle`, study and metrics for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import numpy as np

from benchmarks.candles import minutes
from benchmarks.machine import account_ns
from benchmarks.measure import CHECKOUT, Row, against, least_seconds, median_seconds, one_core, run_process
from benchmarks.reference import interpreter
from coin_hts_pipelines.backtest import BacktestRequest, SweepResult, run_sweep
from coin_hts_pipelines.market import candle_arrays
from coin_hts_pipelines.strategies import get_strategy

BARS = 10_000
GRID = {
    "vol_multiplier": np.linspace(1, 3, 10).tolist(),
    "body_pct": np.linspace(0.001, 0.01, 10).tolist(),
    "hold_period_bars": list(range(1, 11)),
}


def sweep() -> SweepResult:
    """Run the sweep."""
    return run_sweep(minutes(BARS), BacktestRequest("volume_long_candle", timeframe="1M"), GRID)


def _least_seconds() -> float:
    """The arithmetic alone, on all cores: the signals of 100 pairs and every held bar of 1,000 accounts."""
    strategy, candles = get_strategy("volume_long_candle"), candle_arrays(minutes(BARS))
    middle = strategy.full_params({"vol_multiplier": 2.0, "body_pct": 0.005})
    signals = 100 * least_seconds(lambda: strategy.signals_of(candles, middle), times=15)
    accounts = float(sweep().table["exposure"].sum()) * BARS * account_ns() / 1e9
    return (signals + accounts) / (os.cpu_count() or 1)


def rows() -> Iterator[Row]:
    """Measure time here and memory in a process of its own."""
    seconds = median_seconds(sweep, times=15)
    with one_core():
        ratio = against(sweep, interpreter, times=9).ratio
    yield Row(
        "sweep, 1,000 combinations x 10,000 bars, long candle",
        seconds,
        "s",
        0.10,
        ratio=ratio,
        bound=_least_seconds(),
        bound_by="its signals and held bars alone, all cores",
    )
    own = run_process([sys.executable, "-c", "from benchmarks.sweep_long_candle import sweep; sweep()"], CHECKOUT)
    bare = run_process([sys.executable, "-c", "import pandas, numba, pyarrow"], CHECKOUT)
    yield Row(
        "its memory, process of its own", own.peak_mb, "MB", 400, bound=bare.peak_mb, bound_by="imports of libraries"
    )
