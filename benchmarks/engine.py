"""The engine alone, warm, on sample candles of one hour."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pandas as pd

from benchmarks.measure import Row, median_seconds
from coin_hts_pipelines.backtest import BacktestRequest, run_backtest, run_sweep
from coin_hts_pipelines.indicators import zone_resistance
from coin_hts_pipelines.lake.sources import SampleSource
from coin_hts_pipelines.market import CandleArrays, Span, Timeframe, candle_arrays
from coin_hts_pipelines.strategies import get_strategy

_START = datetime(2021, 1, 1, tzinfo=UTC)
_YEAR_OF_MINUTES = 525_600
_ZONE, _LONG = "volume_zone_breakout", "volume_long_candle"


@cache
def minutes(bars: int) -> pd.DataFrame:
    """Sample candles, 1M."""
    return SampleSource().fetch("KRW-BTC", Timeframe.M1, Span(_START, _START + timedelta(minutes=bars)))


def _signals(arrays: CandleArrays, window: int, bins: int) -> float:
    strategy = get_strategy(_ZONE)
    params = strategy.full_params({"volume_window": window, "num_bins": bins})
    return median_seconds(lambda: strategy.signals_of(arrays, params), times=9) / len(arrays) * 1e9


def _everything(candles: pd.DataFrame, request: BacktestRequest) -> None:
    """Signals, study, trades, equity, metrics, digests and the three tables."""
    result = run_backtest(candles, request)
    _ = result.signals, result.trades, result.equity, result.metrics, result.result_digest


def _kernels() -> Iterator[Row]:
    for bars in (10_000, _YEAR_OF_MINUTES):
        arrays = candle_arrays(minutes(bars))
        yield Row(f"zone signals, W 60, B 20, {bars:,} bars", _signals(arrays, 60, 20), 40, "ns/bar")
        yield Row(f"zone signals, W 500, B 100, {bars:,} bars", _signals(arrays, 500, 100), 150, "ns/bar")
    high, low, volume = arrays.high, arrays.low, arrays.volume
    series = median_seconds(lambda: zone_resistance(high, low, volume), times=5) / len(arrays) * 1e9
    yield Row("zone_resistance series, W 60, B 20", series, 350, "ns/bar")


def _backtests() -> Iterator[Row]:
    for strategy in (_ZONE, _LONG):
        request, small = BacktestRequest(strategy, timeframe="1M"), minutes(1000)
        seconds = median_seconds(lambda small=small, request=request: _everything(small, request), times=50)
        yield Row(f"run_backtest, 1,000 bars, {strategy}", seconds * 1000, 2, "ms", "tables included")
    request = BacktestRequest(_ZONE, timeframe="1M")
    year, tenth = minutes(_YEAR_OF_MINUTES), minutes(_YEAR_OF_MINUTES // 10)
    whole = median_seconds(lambda: _everything(year, request), times=5)
    part = median_seconds(lambda: _everything(tenth, request), times=9)
    yield Row("run_backtest, 525,600 bars", whole, 0.15, "s", "tables included")
    yield Row("run_backtest, 10x the bars", whole / part, 12, "x")


def _sweeps() -> Iterator[Row]:
    candles = minutes(10_000)
    long_grid = {
        "vol_multiplier": list(np.linspace(1, 3, 10)),
        "body_pct": list(np.linspace(0.001, 0.01, 10)),
        "hold_period_bars": list(range(1, 11)),
    }
    zone_grid = {
        "top_percentile": list(np.linspace(0.1, 0.5, 10)),
        "breakout_buffer": list(np.linspace(0.0, 0.02, 10)),
    }
    request = BacktestRequest(_LONG, timeframe="1M")
    seconds = median_seconds(lambda: run_sweep(candles, request, long_grid), times=9)
    yield Row("sweep, 1,000 combinations x 10,000 bars, long candle", seconds, 0.10, "s", "study and metrics each")
    request = BacktestRequest(_ZONE, timeframe="1M")
    seconds = median_seconds(lambda: run_sweep(candles, request, zone_grid), times=9)
    yield Row("sweep, 100 (p, b) x 10,000 bars, zone breakout", seconds, 0.05, "s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield Row("memory of all the above", peak, 1000, "MB", "the year of minutes included")


def rows() -> Iterator[Row]:
    """Measure kernels, single backtests and sweeps."""
    yield from _kernels()
    yield from _backtests()
    yield from _sweeps()
