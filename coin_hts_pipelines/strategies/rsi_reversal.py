"""Return of the relative strength index from oversold.

Source: the index, its levels 30 and 70 and the reading of them, J. Welles Wilder, New Concepts in Technical Trading
Systems, 1978, section 6; with simple averages instead of his smoothed ones, known as Cutler's RSI. Wilder's smoothing
never forgets: his index of a bar depends on where the data begins, so a slice, a year's file and a stream would each
give other signals. The simple averages know `rsi_window` changes and nothing else.

Over the last `rsi_window` changes of the close, up to that of bar i, `gains` is the sum of the rises and `losses` that
of the falls, both positive, from the oldest to the newest: `rsi[i] = 100 * (gains / (gains + losses))`, which is
Wilder's 100 - 100/(1 + average gain / average loss). Without a fall it is 100, without a rise 0. Without any change it
is undefined, and a comparison with an undefined index does not hold.

- BUY when `rsi[i-1] <= oversold` and `rsi[i] > oversold`, from bar `rsi_window + 1` on;
- SELL when `rsi[i] >= overbought`, from bar `rsi_window` on.

`confidence[i] = 0.5 + 0.5 * (oversold - rsi[i-1]) / oversold`. Volume plays no part.
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
def _rsi(closes: FloatArray, i: int, window: int) -> float:
    gains, losses = 0.0, 0.0
    for j in range(i - window + 1, i + 1):
        change = closes[j] - closes[j - 1]
        gains += max(change, 0.0)
        losses += max(-change, 0.0)
    moved = gains + losses
    # The quotient first: gains/gains is exactly 1, 100*gains/gains need not be 100.
    return 100.0 * (gains / moved) if moved > 0.0 else np.nan


@kernel
def _compute(
    closes: FloatArray, window: int, oversold: float, overbought: float, start: int, stop: int
) -> tuple[BoolArray, FloatArray, BoolArray]:
    buy, sell = np.zeros(stop - start, dtype=np.bool_), np.zeros(stop - start, dtype=np.bool_)
    confidence = np.zeros(stop - start)
    first = max(start, window)
    before = _rsi(closes, first - 1, window) if window < first < stop else np.nan
    for i in range(first, stop):
        rsi = _rsi(closes, i, window)
        if before <= oversold and rsi > oversold:
            buy[i - start] = True
            confidence[i - start] = 0.5 + 0.5 * (oversold - before) / oversold
        sell[i - start] = rsi >= overbought
        before = rsi
    return buy, confidence, sell


class RsiReversal(Strategy):
    """Buys when the RSI crosses back above the oversold level, sells when it reaches the overbought one."""

    name = "rsi_reversal"
    sells = True
    params = (
        Param("rsi_window", 14, 2, 500, "changes of the close that make the index"),
        Param("oversold", 30.0, 1, 99, "level above which the index must return, less than overbought"),
        Param("overbought", 70.0, 1, 100, "level at which the index says sell"),
        Param("hold_period_bars", 30, 1, 100_000, "bars after the entry bar at which a position ends at the latest"),
    )

    def check(self, params: Mapping[str, Any]) -> None:
        """See `Strategy.check`."""
        if params["oversold"] >= params["overbought"]:
            raise InvalidRequest(
                f"{self.name}: oversold = {params['oversold']} is not accepted; "
                f"expected less than overbought = {params['overbought']}"
            )

    def nanoseconds_per_bar(self, params: Mapping[str, Any]) -> float:
        """Cost of a bar: the sums of the window."""
        return 10.0 + 3.0 * float(params["rsi_window"])

    def lookback(self, params: Mapping[str, Any]) -> int:
        """See `Strategy.lookback`: the change before the window of the bar before."""
        return int(params["rsi_window"]) + 1

    def compute(
        self, candles: CandleArrays, params: Mapping[str, Any], start: int, stop: int
    ) -> tuple[BoolArray, FloatArray, BoolArray]:
        """See `Strategy.compute`; the rule stands at the top of the file."""
        return _compute(candles.close, params["rsi_window"], params["oversold"], params["overbought"], start, stop)
