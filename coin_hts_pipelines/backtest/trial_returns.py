"""Bar returns of a sweep's trials, computed again: one trial's as they are, all trials' reduced to moments of blocks.

A matrix of bars x trials is never made: a thousand trials over a year of minutes would take 4 GB.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.backtest.overfitting import block_moments
from coin_hts_pipelines.backtest.portfolio import walk_account, walk_trades
from coin_hts_pipelines.backtest.sweep import SweepResult, evaluate_combinations
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.strategies.base import IsCancelled, Progress

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@kernel
def _bar_returns(
    closes: FloatArray,
    entry_bars: IntArray,
    exit_bars: IntArray,
    quantities: FloatArray,
    idles: FloatArray,
    proceeds: FloatArray,
    cash: float,
    scratch: FloatArray,
    out: FloatArray,
) -> None:
    """Bar returns of an account (n,): those `walk_account` leaves in its scratch space, put in their places."""
    nothing = np.empty(0)
    walk_account(closes, entry_bars, exit_bars, quantities, idles, proceeds, cash, nothing, nothing, scratch)
    out[:] = 0.0
    held = 0
    for t in range(len(entry_bars)):
        end = exit_bars[t] if exit_bars[t] >= 0 else len(closes) - 1
        for i in range(entry_bars[t], end + 1):
            out[i] = scratch[held]
            held += 1


@kernel
def _evaluate_returns(
    opens: FloatArray,
    highs: FloatArray,
    lows: FloatArray,
    closes: FloatArray,
    signals: IntArray,
    sell: BoolArray,
    rules: FloatArray,
    size_kind: int,
    size_value: float,
    ranges: FloatArray,
    fee: float,
    slippage: float,
    cash: float,
    next_open: bool,
    blocks: float,
) -> FloatArray:
    """Row by row of `rules` the sums of the bar returns in blocks and then of their squares; with 0 the returns."""
    n, parts, one_rule = len(closes), int(blocks), np.empty(0, np.int64)
    rows = np.empty((len(rules), 2 * parts if parts > 0 else n))
    scratch, returns = np.empty(n), np.empty(n)
    for r in range(len(rules)):
        entry, exit_, _, _, quantity, _, _, _, idle, proceeds, _ = walk_trades(
            opens, highs, lows, closes, signals, sell, rules[r : r + 1], one_rule,
            size_kind, size_value, ranges, fee, slippage, cash, next_open,
        )  # fmt: skip
        _bar_returns(closes, entry, exit_, quantity, idle, proceeds, cash, scratch, returns)
        if parts > 0:
            sums, squares, _ = block_moments(returns, parts)
            rows[r, :parts], rows[r, parts:] = sums, squares
        else:
            rows[r] = returns
    return rows


def trial_moments(
    sweep: SweepResult,
    blocks: int,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Sums and sums of squares of the bar returns in blocks, (trials, blocks) each, and the bars of each block.

    They are what `probability_of_backtest_overfitting` needs; raises Cancelled if `cancelled()` became true.
    """
    moments = evaluate_combinations(
        sweep.candles,
        sweep.request,
        sweep.combinations,
        _evaluate_returns,
        float(blocks),
        2 * blocks,
        threads=threads,
        progress=progress,
        cancelled=cancelled,
    )
    counts = block_moments(np.zeros(len(sweep.candles)), blocks)[2]
    return moments[:, :blocks], moments[:, blocks:], counts


def trial_returns(sweep: SweepResult, row: int, *, cancelled: IsCancelled | None = None) -> FloatArray:
    """Bar returns (fractions, shape (n,)) of one row of a sweep; raises Cancelled if `cancelled()` became true."""
    returns: FloatArray = evaluate_combinations(
        sweep.candles,
        sweep.request,
        [sweep.combinations[row]],
        _evaluate_returns,
        0.0,
        len(sweep.candles),
        cancelled=cancelled,
    )[0]
    return returns
