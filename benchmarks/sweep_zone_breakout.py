"""Sweep of 100 (top_percentile, breakout_buffer) pairs of `volume_zone_breakout`."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator

import numpy as np

from benchmarks.candles import minutes
from benchmarks.measure import Row, against, median_seconds, one_core
from benchmarks.reference import windows
from benchmarks.zone_signals import BOUND_BY, least_ns
from coin_hts_pipelines.backtest import BacktestRequest, run_sweep
from coin_hts_pipelines.market import candle_arrays

_BARS = 10_000
_GRID = {
    "top_percentile": np.linspace(0.1, 0.5, 10).tolist(),
    "breakout_buffer": np.linspace(0.0, 0.02, 10).tolist(),
}


def rows() -> Iterator[Row]:
    """Measure the sweep."""
    candles, request = minutes(_BARS), BacktestRequest("volume_zone_breakout", timeframe="1M")

    def sweep() -> None:
        run_sweep(candles, request, _GRID)

    seconds = median_seconds(sweep, times=15)
    with one_core():
        ratio = against(sweep, windows, times=9).ratio
    arrays = candle_arrays(candles)
    least = statistics.mean(least_ns(arrays, 60, 20, buffer) for buffer in _GRID["breakout_buffer"])
    yield Row(
        "sweep, 100 (p, b) x 10,000 bars, zone breakout",
        seconds,
        "s",
        0.05,
        ratio=ratio,
        bound=100 * _BARS * least / 1e9 / (os.cpu_count() or 1),
        bound_by=f"{BOUND_BY}; all cores",
    )
