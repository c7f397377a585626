"""`volume_zone_breakout` signals, as the engine computes them on validated candles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.candles import YEAR_OF_MINUTES, minutes, real
from benchmarks.machine import extremes_ns, pass_ns
from benchmarks.measure import Row, against
from benchmarks.reference import windows
from coin_hts_pipelines.market import CandleArrays, candle_arrays
from coin_hts_pipelines.strategies import get_strategy
from coin_hts_pipelines.strategies.base import ParamValue, Strategy

# Window, bins, limit in ns a bar.
_SIZES = ((60, 20, 40), (500, 100, 150))


BOUND_BY = "sliding extremes; a pass where the high lies inside the window; a pass for either edge of a signal's zone"


def least_ns(candles: CandleArrays, window: int, bins: int, buffer: float) -> float:
    """Least nanoseconds a bar: the windows' extremes and the passes no method can do without.

    A bar whose high, less the buffer, lies inside the window's span needs one to be decided; a signal needs its
    resistance, so an edge on either side of it, one of which may have been that first pass.
    """
    lowest = sliding_window_view(candles.low, window).min(axis=1)[:-1]
    highest = sliding_window_view(candles.high, window).max(axis=1)[:-1]
    price = candles.high[window:] / (1 + buffer)
    inside = (price >= lowest) & (price < highest - (highest - lowest) / bins)
    buy = _strategy().signals_of(candles, _params(window, bins, buffer)).buy[window:]
    passes = np.where(inside, 1 + buy, 2 * buy).mean()
    return extremes_ns(window) + float(passes) * pass_ns(window)


def _strategy() -> Strategy:
    return get_strategy("volume_zone_breakout")


def _params(window: int, bins: int, buffer: float) -> dict[str, ParamValue]:
    return _strategy().full_params({"volume_window": window, "num_bins": bins, "breakout_buffer": buffer})


def _row(name: str, candles: CandleArrays, window: int, bins: int, buffer: float, limit: float | None) -> Row:
    strategy, params = _strategy(), _params(window, bins, buffer)
    taken = against(lambda: strategy.signals_of(candles, params), windows, times=9)
    nanoseconds = taken.seconds / len(candles) * 1e9
    return Row(
        f"zone signals, W {window}, B {bins}, b {buffer:.0%}, {name}",
        nanoseconds,
        "ns/bar",
        limit,
        ratio=taken.ratio,
        bound=least_ns(candles, window, bins, buffer),
        bound_by=BOUND_BY,
    )


def rows() -> Iterator[Row]:
    """Measure short and long windows on sample and on real candles."""
    samples = {f"{bars:,} bars": minutes(bars) for bars in (10_000, YEAR_OF_MINUTES)}
    for name, frame in [*samples.items(), *((name, frame) for name, (_, frame) in real().items())]:
        arrays = candle_arrays(frame)
        for window, bins, limit in _SIZES:
            yield _row(name, arrays, window, bins, 0.01, limit)
        # No limit is asked for without a buffer, where every bar near the window's high needs its pass.
        yield _row(name, arrays, 60, 20, 0.0, None)
