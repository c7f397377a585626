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


STUDY = ("samples", "closed", "win_rate", "avg_return", "max_drawdown", "avg_hold_bars")


@kernel
def study_values(close: FloatArray, bars: IntArray, hold: int, returns: FloatArray) -> FloatArray:
    """Values in the order of `STUDY`; the returns of the closed signals are written to `returns` unless it is empty."""
    closed = 0
    wins = 0
    cumulated, peak, drawdown = 0.0, 0.0, 0.0
    for k in range(len(bars)):
        if bars[k] + hold >= len(close):
            break
        entry = close[bars[k]]
        change = (close[bars[k] + hold] - entry) / entry * 100
        if len(returns) > 0:
            returns[k] = change
        closed += 1
        wins += change > 0
        cumulated += change
        peak = max(peak, cumulated)
        drawdown = max(drawdown, peak - cumulated)
    if closed == 0:
        return np.array([float(len(bars)), 0.0, 0.0, 0.0, 0.0, 0.0])
    return np.array([float(len(bars)), closed, wins / closed, cumulated / closed, drawdown, hold])


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
    returns = np.empty(len(bars))
    values = dict(zip(STUDY, study_values(close, bars, hold, returns).tolist(), strict=True))
    stats: dict[str, float] = {**values, "samples": int(values["samples"]), "closed": int(values["closed"])}
    return SignalStudy(bars, returns[: int(values["closed"])], stats)
