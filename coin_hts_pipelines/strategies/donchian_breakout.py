"""Breakout of the Donchian channel.

Source: Richard Donchian's four-week rule with the shorter exit of the Turtles (20 and 10 bars their first system, 55
and 20 the second), Curtis Faith, Way of the Turtle, 2007; on closes, where the Turtles traded the price itself.

- BUY when `close[i]` is above the highest high of the bars `i - entry_window .. i - 1`, from bar `entry_window` on;
- SELL when `close[i]` is below the lowest low of the bars `i - exit_window .. i - 1`, from bar `exit_window` on.

The bar itself is in neither channel; every bar of a rise that closes above its channel is a BUY. With `highest` that
high, `confidence[i] = min(0.5 + (close[i] - highest) / highest, 1)`. Volume plays no part; in a flat market nothing is
above or below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays
from coin_hts_pipelines.strategies.base import BoolArray, FloatArray, Param, Strategy


@kernel
def _compute(
    highs: FloatArray,
    lows: FloatArray,
    closes: FloatArray,
    entry_window: int,
    exit_window: int,
    start: int,
    stop: int,
) -> tuple[BoolArray, FloatArray, BoolArray]:
    buy, sell = np.zeros(stop - start, dtype=np.bool_), np.zeros(stop - start, dtype=np.bool_)
    confidence = np.zeros(stop - start)
    for i in range(max(start, entry_window), stop):
        highest = 0.0
        for j in range(i - entry_window, i):
            highest = max(highest, highs[j])
        if closes[i] > highest:
            buy[i - start] = True
            confidence[i - start] = min(0.5 + (closes[i] - highest) / highest, 1.0)
    for i in range(max(start, exit_window), stop):
        lowest = np.inf
        for j in range(i - exit_window, i):
            lowest = min(lowest, lows[j])
        sell[i - start] = closes[i] < lowest
    return buy, confidence, sell


class DonchianBreakout(Strategy):
    """Buys a close above the highest high of the entry window, sells one below the lowest low of the exit window."""

    name = "donchian_breakout"
    sells = True
    params = (
        Param("entry_window", 20, 1, 1000, "bars before the current one whose highest high must be exceeded"),
        Param("exit_window", 10, 1, 1000, "bars before the current one whose lowest low says sell"),
        Param("hold_period_bars", 100, 1, 100_000, "bars after the entry bar at which a position ends at the latest"),
    )

    def nanoseconds_per_bar(self, params: Mapping[str, Any]) -> float:
        """Cost of a bar: both windows."""
        return 10.0 + 2.0 * (float(params["entry_window"]) + float(params["exit_window"]))

    def lookback(self, params: Mapping[str, Any]) -> int:
        """See `Strategy.lookback`."""
        return int(max(params["entry_window"], params["exit_window"]))

    def compute(
        self, candles: CandleArrays, params: Mapping[str, Any], start: int, stop: int
    ) -> tuple[BoolArray, FloatArray, BoolArray]:
        """See `Strategy.compute`; the rule stands at the top of the file."""
        return _compute(
            candles.high, candles.low, candles.close, params["entry_window"], params["exit_window"], start, stop
        )
