"""The signal study: what the signals were worth on their own, without costs, exits or fill rules (SPEC 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.kernels import kernel

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SignalStudy:
    """Every signal as a trade of its own.

    `bar` int64 (s,): bars of the s signals; `return_pct` float64 (c,): percent returns of the c closed ones,
    which are the first c. `stats` is the dict of SPEC 4.1.
    """

    bar: IntArray
    return_pct: FloatArray
    stats: dict[str, float]


@kernel
def _statistics(close: FloatArray, bars: IntArray, hold: int) -> tuple[FloatArray, int, float, float]:
    n = len(close)
    closed = 0
    while closed < len(bars) and bars[closed] + hold < n:
        closed += 1
    returns = np.empty(closed)
    wins = 0
    cumulated, peak, drawdown = 0.0, 0.0, 0.0
    for k in range(closed):
        entry = close[bars[k]]
        returns[k] = (close[bars[k] + hold] - entry) / entry * 100
        wins += returns[k] > 0
        cumulated += returns[k]
        peak = max(peak, cumulated)
        drawdown = max(drawdown, peak - cumulated)
    return returns, wins, cumulated, drawdown


def study_signals(close: FloatArray, buy: BoolArray, hold: int) -> SignalStudy:
    """Study BUY signals held `hold` bars from close to close.

    Parameters
    ----------
    close
        Shape (n,), quote.
    buy
        Shape (n,).
    hold
        Bars, at least 1.

    Returns
    -------
    SignalStudy
        Its `stats`: samples and closed (count), win_rate (0..1), avg_return (percent), max_drawdown (percent points,
        positive), avg_hold_bars (bars); with nothing closed all but samples are 0.
    """
    bars = np.flatnonzero(buy).astype(np.int64)
    returns, wins, cumulated, drawdown = _statistics(close, bars, hold)
    closed = len(returns)
    stats: dict[str, float] = {
        "samples": len(bars),
        "closed": closed,
        "win_rate": wins / closed if closed else 0.0,
        "avg_return": cumulated / closed if closed else 0.0,
        "max_drawdown": drawdown if closed else 0.0,
        "avg_hold_bars": float(hold) if closed else 0.0,
    }
    return SignalStudy(bars, returns, stats)
