"""Crossing of two simple moving averages.

Source: the double crossover method, John J. Murphy, Technical Analysis of the Financial Markets, 1999, chapter 9.

`fast[i]` and `slow[i]` are the means of the last `fast_window` and `slow_window` closes, bar i included. From bar
`slow_window` on, the first at which both bars of a crossing have both means:

- BUY when `fast[i-1] <= slow[i-1]` and `fast[i] > slow[i]`;
- SELL when `fast[i-1] >= slow[i-1]` and `fast[i] < slow[i]`.

`confidence[i] = min(0.5 + (fast[i] - slow[i]) / slow[i], 1)`. Volume plays no part. A mean is summed from the oldest
close to the newest and divided once; that of equal closes is their value, so that rounding crosses nothing in a flat
market.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays
from coin_hts_pipelines.strategies.base import BoolArray, FloatArray, Param, Strategy


@kernel
def _mean(closes: FloatArray, i: int, window: int) -> float:
    part = closes[i - window + 1 : i + 1]
    total, flat = 0.0, True
    for j in range(window):
        total += part[j]
        flat &= part[j] == part[0]
    return part[0] if flat else total / window


@kernel
def _compute(
    closes: FloatArray, fast_window: int, slow_window: int, start: int, stop: int
) -> tuple[BoolArray, FloatArray, BoolArray]:
    buy, sell = np.zeros(stop - start, dtype=np.bool_), np.zeros(stop - start, dtype=np.bool_)
    confidence = np.zeros(stop - start)
    first = max(start, slow_window)
    if first >= stop:
        return buy, confidence, sell
    fast_before, slow_before = _mean(closes, first - 1, fast_window), _mean(closes, first - 1, slow_window)
    for i in range(first, stop):
        fast, slow = _mean(closes, i, fast_window), _mean(closes, i, slow_window)
        if fast_before <= slow_before and fast > slow:
            buy[i - start] = True
            confidence[i - start] = min(0.5 + (fast - slow) / slow, 1.0)
        sell[i - start] = fast_before >= slow_before and fast < slow
        fast_before, slow_before = fast, slow
    return buy, confidence, sell


class SmaCross(Strategy):
    """Buys when the fast mean of the close crosses above the slow one, sells when it crosses below."""

    name = "sma_cross"
    sells = True
    params = (
        Param("fast_window", 10, 1, 500, "bars of the fast mean of the close, fewer than slow_window"),
        Param("slow_window", 50, 2, 1000, "bars of the slow mean of the close"),
        Param("hold_period_bars", 200, 1, 100_000, "bars after the entry bar at which a position ends at the latest"),
    )

    def check(self, params: Mapping[str, Any]) -> None:
        """See `Strategy.check`."""
        if params["fast_window"] >= params["slow_window"]:
            raise InvalidRequest(
                f"{self.name}: fast_window = {params['fast_window']} is not accepted; "
                f"expected less than slow_window = {params['slow_window']}"
            )

    def nanoseconds_per_bar(self, params: Mapping[str, Any]) -> float:
        """Cost of a bar: both sums."""
        return 10.0 + 2.0 * (float(params["fast_window"]) + float(params["slow_window"]))

    def lookback(self, params: Mapping[str, Any]) -> int:
        """See `Strategy.lookback`."""
        return int(params["slow_window"])

    def compute(
        self, candles: CandleArrays, params: Mapping[str, Any], start: int, stop: int
    ) -> tuple[BoolArray, FloatArray, BoolArray]:
        """See `Strategy.compute`; the rule stands at the top of the file."""
        return _compute(candles.close, params["fast_window"], params["slow_window"], start, stop)
