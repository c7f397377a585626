"""How much of the account goes into a position (docs/engine.md 3)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.backtest.request import Sizing
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays

FloatArray = npt.NDArray[np.float64]

FRACTION, AMOUNT, RISK = 0, 1, 2


@kernel
def average_true_range(highs: FloatArray, lows: FloatArray, closes: FloatArray, window: int) -> FloatArray:
    """Wilder's average true range, quote, shape (n,); NaN before bar `window`.

    Source: J. W. Wilder, New Concepts in Technical Trading Systems (1978); equal to TA-Lib's ATR.
    """
    out = np.full(len(closes), np.nan)
    average = 0.0
    for i in range(1, len(closes)):
        true_range = max(highs[i], closes[i - 1]) - min(lows[i], closes[i - 1])
        average = average + true_range if i <= window else (average * (window - 1) + true_range) / window
        if i == window:
            average /= window
        if i >= window:
            out[i] = average
    return out


@kernel
def sized(kind: int, value: float, base: float, cash: float, unit: float, range_: float) -> tuple[float, float]:
    """Quantity bought and cash left; `unit` is what one piece costs with its fee, `range_` the priced-in move."""
    if kind == RISK:
        quantity = value * base / range_
        if quantity < cash / unit:
            return quantity, cash - quantity * unit
        return cash / unit, 0.0
    spent = min(value if kind == AMOUNT else value * base, cash)
    return spent / unit, cash - spent


def sizing_values(sizing: Sizing | None, candles: CandleArrays, positions: int = 1) -> tuple[int, float, FloatArray]:
    """Arguments of `sized`: kind, value, and for `risk` the move of each bar, shape (n,), otherwise empty."""
    nothing = np.empty(0)
    if sizing is None:
        return FRACTION, 1.0 / positions, nothing
    if sizing.risk is not None:
        ranges = average_true_range(candles.high, candles.low, candles.close, sizing.atr_window)
        return RISK, sizing.risk, sizing.atr_multiple * ranges
    if sizing.amount is not None:
        return AMOUNT, sizing.amount, nothing
    return FRACTION, sizing.fraction or 0.0, nothing
