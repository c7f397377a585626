"""What else could have come of the same trades or bars: seeded bootstraps of the account (docs/risk.md).

Runs are worked one after the other, so memory is that of one run. Indices come from a numpy Generator (PCG64) and the
compounding is plain IEEE arithmetic: the same seed gives the same runs on every machine with the same numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.errors import Cancelled, InvalidRequest
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.strategies.base import IsCancelled

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)

# Steps between two looks at `cancelled`, some 10 ns each.
_STEPS_A_LOOK = 2_000_000


@dataclass(frozen=True)
class MonteCarlo:
    """Final equity (quote) and max drawdown (fraction <= 0) of each run, shape (runs,); NaN if nothing was drawn."""

    initial_cash: float
    final_equity: FloatArray
    max_drawdown: FloatArray

    @property
    def probability_of_loss(self) -> float:
        """Share of runs that end below the starting cash, 0..1."""
        if np.isnan(self.final_equity).any():
            return float("nan")
        return float((self.final_equity < self.initial_cash).mean())

    def bands(self, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
        """Quantiles of both figures, each on its own; a low level is the bad end of either.

        Raises
        ------
        InvalidRequest
            For a level outside 0..1.
        """
        if not all(0 <= level <= 1 for level in levels):
            raise InvalidRequest(f"levels {list(levels)!r} are not accepted; expected fractions from 0 to 1")
        return pd.DataFrame(
            {
                "level": np.array(levels, dtype=np.float64),
                "final_equity": np.quantile(self.final_equity, levels),
                "max_drawdown": np.quantile(self.max_drawdown, levels),
            }
        )


@kernel
def _compound(returns: FloatArray, jumps: BoolArray, starts: IntArray, initial_cash: float) -> tuple[float, float]:
    """Final equity and lowest drawdown of one run: a block begins at the next of `starts` wherever `jumps`."""
    n = len(returns)
    value, peak, lowest = initial_cash, initial_cash, 0.0
    at, block = 0, 0
    for i in range(n):
        if jumps[i]:
            at = starts[block]
            block += 1
        value *= 1 + returns[at]
        at = at + 1 if at + 1 < n else 0
        if value > peak:
            peak = value
        else:
            lowest = min(lowest, value / peak - 1)
    return value, lowest


def block_bootstrap(
    returns: FloatArray,
    initial_cash: float,
    block_bars: int,
    runs: int = 1000,
    seed: int = 0,
    *,
    cancelled: IsCancelled | None = None,
) -> MonteCarlo:
    """Stationary bootstrap of the bar returns: Politis and Romano, The Stationary Bootstrap, JASA 89 (1994).

    Every run has n bars. A bar starts a new block at a random bar with probability 1/block_bars and otherwise
    continues the block, the first bar following the last one. So blocks have geometric lengths, dependence within
    them is kept, and unlike with fixed lengths the series drawn is stationary.

    Parameters
    ----------
    returns
        Per bar, fractions, shape (n,).
    initial_cash
        Quote.
    block_bars
        Mean length of a block, at least 1; 1 draws every bar on its own.
    runs
        At least 1.
    seed
        At least 0.
    cancelled
        Asked at least once a second; true ends the work.

    Raises
    ------
    InvalidRequest
        For a block length, number of runs or seed out of range.
    Cancelled
        If `cancelled()` became true.
    """
    for name, value, least in (("block_bars", block_bars, 1), ("runs", runs, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InvalidRequest(f"{name} = {value!r} is not accepted; expected a whole number from {least} on")
    n = len(returns)
    final_equity, max_drawdown = np.full(runs, np.nan), np.full(runs, np.nan)
    generator = np.random.Generator(np.random.PCG64(seed))
    runs_a_look = max(1, _STEPS_A_LOOK // max(n, 1))
    for run in range(runs if n else 0):
        if cancelled is not None and run % runs_a_look == 0 and cancelled():
            raise Cancelled(f"bootstrap was cancelled after {run} of {runs} runs")
        jumps = generator.random(n) < 1 / block_bars
        jumps[0] = True
        starts = generator.integers(n, size=np.count_nonzero(jumps), dtype=np.int64)
        final_equity[run], max_drawdown[run] = _compound(returns, jumps, starts, initial_cash)
    return MonteCarlo(initial_cash, final_equity, max_drawdown)


def account_returns(
    entry_bars: npt.NDArray[np.int64], pnls: FloatArray, equity: FloatArray, initial_cash: float
) -> FloatArray:
    """Result of every trade as a fraction of the account before it, shape (t,); NaN for an open one.

    With all cash in every trade it is `return_pct / 100`; idle cash makes it smaller.
    """
    before = np.concatenate(([initial_cash], equity))[entry_bars]
    return np.asarray(pnls / before)


def bootstrap_trades(
    trade_returns: FloatArray,
    initial_cash: float,
    runs: int = 1000,
    seed: int = 0,
    *,
    cancelled: IsCancelled | None = None,
) -> MonteCarlo:
    """Bootstrap of the trades: Efron, Bootstrap Methods, Annals of Statistics 7 (1979).

    Every run draws as many trades as there are, with replacement, and compounds them; the drawdown is seen after each
    trade only. `trade_returns` are fractions of the account, shape (t,), NaN (an open trade) left out; the rest is as
    in `block_bootstrap`.
    """
    closed = trade_returns[~np.isnan(trade_returns)]
    return block_bootstrap(closed, initial_cash, 1, runs, seed, cancelled=cancelled)
