"""Breakout of the upper Bollinger band.

Source: method I, volatility breakout, John Bollinger, Bollinger on Bollinger Bands, 2001, with the exit at the middle
band.

Over the last `band_window` closes, bar i included, `middle[i]` is their mean and `deviation[i]` their standard
deviation, that of a population: `sqrt(sum((close - middle)**2) / band_window)`. Both are summed from the oldest close
to the newest; of equal closes the mean is their value and the deviation 0, so that rounding breaks out of nothing in a
flat market. `upper[i] = middle[i] + deviations * deviation[i]`.

- BUY when `close[i-1] <= upper[i-1]` and `close[i] > upper[i]`, from bar `band_window` on;
- SELL when `close[i] < middle[i]`, from bar `band_window - 1` on.

`confidence[i] = min(0.5 + (close[i] - upper[i]) / upper[i], 1)`. Volume plays no part. No close lies more than
`sqrt(band_window - 1)` deviations above the mean of a window it belongs to: with more `deviations` there is no BUY.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays
from coin_hts_pipelines.strategies.base import BoolArray, FloatArray, Param, Strategy


@kernel
def _mean_and_deviation(closes: FloatArray, i: int, window: int) -> tuple[float, float]:
    part = closes[i - window + 1 : i + 1]
    total, flat = 0.0, True
    for j in range(window):
        total += part[j]
        flat &= part[j] == part[0]
    if flat:
        return part[0], 0.0
    mean = total / window
    squares = 0.0
    for j in range(window):
        distance = part[j] - mean
        squares += distance * distance
    return mean, np.sqrt(squares / window)


@kernel
def _compute(
    closes: FloatArray, window: int, deviations: float, start: int, stop: int
) -> tuple[BoolArray, FloatArray, BoolArray]:
    buy, sell = np.zeros(stop - start, dtype=np.bool_), np.zeros(stop - start, dtype=np.bool_)
    confidence = np.zeros(stop - start)
    first = max(start, window - 1)
    # No breakout without a bar before it that has a band.
    inside = False
    if window <= first < stop:
        middle, deviation = _mean_and_deviation(closes, first - 1, window)
        inside = closes[first - 1] <= middle + deviations * deviation
    for i in range(first, stop):
        middle, deviation = _mean_and_deviation(closes, i, window)
        upper = middle + deviations * deviation
        if inside and closes[i] > upper:
            buy[i - start] = True
            confidence[i - start] = min(0.5 + (closes[i] - upper) / upper, 1.0)
        sell[i - start] = closes[i] < middle
        inside = closes[i] <= upper
    return buy, confidence, sell


class BollingerBreakout(Strategy):
    """Buys when the close crosses above the upper band, sells when it lies below the middle one."""

    name = "bollinger_breakout"
    sells = True
    params = (
        Param("band_window", 20, 2, 1000, "bars of the bands, the current one included"),
        Param("deviations", 2.0, 0.1, 10.0, "standard deviations from the middle band to the upper one"),
        Param("hold_period_bars", 50, 1, 100_000, "bars after the entry bar at which a position ends at the latest"),
    )

    def nanoseconds_per_bar(self, params: Mapping[str, Any]) -> float:
        """Cost of a bar: both sums."""
        return 20.0 + 4.0 * float(params["band_window"])

    def lookback(self, params: Mapping[str, Any]) -> int:
        """See `Strategy.lookback`: the window of the bar before."""
        return int(params["band_window"])

    def compute(
        self, candles: CandleArrays, params: Mapping[str, Any], start: int, stop: int
    ) -> tuple[BoolArray, FloatArray, BoolArray]:
        """See `Strategy.compute`; the rule stands at the top of the file."""
        return _compute(candles.close, params["band_window"], params["deviations"], start, stop)
