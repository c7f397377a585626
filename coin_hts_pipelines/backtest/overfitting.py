"""How much of a good backtest is luck: Sharpe ratios under many trials, and cross-validation of the choice.

Sharpe ratios here are per bar, not annualised: mean over deviation (ddof 1) of the bar returns. Sources:
[1] Bailey and Lopez de Prado, The Sharpe Ratio Efficient Frontier, Journal of Risk 15 (2012);
[2] Bailey and Lopez de Prado, The Deflated Sharpe Ratio, Journal of Portfolio Management 40 (2014);
[3] Bailey, Borwein, Lopez de Prado and Zhu, The Probability of Backtest Overfitting, Journal of Computational Finance
    20 (2017). docs/risk.md has one line for every figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, islice
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.errors import Cancelled, InvalidRequest
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.strategies.base import IsCancelled

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BLOCKS = 16
_MOST_BLOCKS = 20  # 184,756 splits

_ZERO_DEVIATION = 1e-14
# A deviation this far below the root mean square is what cancellation leaves of none at all.
_ROUNDING = 1e-12
# Splits x trials between two looks at `cancelled`, some 20 ns each.
_STEPS_A_LOOK = 10_000_000
_NORMAL = NormalDist()


class Moments(NamedTuple):
    """Mean, standard deviation (ddof 1), skewness and kurtosis (3 for a normal distribution, not the excess)."""

    mean: float
    std: float
    skew: float
    kurtosis: float

    @property
    def sharpe(self) -> float:
        """Sharpe ratio per bar; NaN without deviation."""
        return self.mean / self.std if self.std > 0 else math.nan


def return_moments(returns: FloatArray) -> Moments:
    """Moments of the bar returns (fractions, shape (n,)); skewness and kurtosis over the moments with ddof 0."""
    n = len(returns)
    if n < 2:
        return Moments(float(returns[0]) if n else math.nan, math.nan, math.nan, math.nan)
    mean = float(returns.mean())
    around = returns - mean
    squares = around * around
    variance = float(squares.mean())
    std = math.sqrt(variance * n / (n - 1))
    if std < _ZERO_DEVIATION:
        return Moments(mean, 0.0, math.nan, math.nan)
    third, fourth = float((squares * around).mean()), float((squares * squares).mean())
    return Moments(mean, std, third / variance**1.5, fourth / variance**2)


def _spread(sharpe: float, skew: float, kurtosis: float) -> float:
    """Variance of the estimated Sharpe ratio, times bars - 1 ([1]); NaN where it is not positive."""
    spread = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe * sharpe
    return spread if spread > 0 else math.nan


def probabilistic_sharpe(
    sharpe_per_bar: float, benchmark_sharpe: float, bars: int, skew: float, kurtosis: float
) -> float:
    """Probability that the true Sharpe ratio exceeds the benchmark, 0..1 ([1]).

    Both ratios are per bar, `kurtosis` is 3 for a normal distribution. NaN with fewer than two bars or undefined input.
    """
    if bars < 2:
        return math.nan
    error = math.sqrt(_spread(sharpe_per_bar, skew, kurtosis) / (bars - 1))
    return _NORMAL.cdf((sharpe_per_bar - benchmark_sharpe) / error)


def minimum_track_record_length(
    sharpe_per_bar: float, benchmark_sharpe: float, skew: float, kurtosis: float, confidence: float = 0.95
) -> float:
    """Bars after which `probabilistic_sharpe` reaches the confidence ([1]); NaN if it never will.

    Raises
    ------
    InvalidRequest
        Unless 0.5 < confidence < 1.
    """
    if not 0.5 < confidence < 1:
        raise InvalidRequest(f"confidence = {confidence!r} is not accepted; expected 0.5 < confidence < 1")
    if not sharpe_per_bar > benchmark_sharpe:
        return math.nan
    needed = _NORMAL.inv_cdf(confidence) / (sharpe_per_bar - benchmark_sharpe)
    return 1 + _spread(sharpe_per_bar, skew, kurtosis) * needed * needed


def expected_max_sharpe(trials: int, variance_of_trial_sharpes: float) -> float:
    """Sharpe ratio that the best of so many independent trials without any skill is expected to show ([2]).

    In the unit of the trials' ratios; 0 for a single trial. NaN for an undefined variance.

    Raises
    ------
    InvalidRequest
        For fewer than one trial.
    """
    if trials < 1:
        raise InvalidRequest(f"trials = {trials!r} is not accepted; expected at least 1")
    if trials == 1:
        return 0.0
    if not variance_of_trial_sharpes >= 0:
        return math.nan
    highest = -(1 - np.euler_gamma) * _NORMAL.inv_cdf(1 / trials)
    highest -= np.euler_gamma * _NORMAL.inv_cdf(1 / (trials * math.e))
    return math.sqrt(variance_of_trial_sharpes) * highest


def deflated_sharpe(
    sharpe_per_bar: float, trials: int, variance_of_trial_sharpes: float, bars: int, skew: float, kurtosis: float
) -> float:
    """Probability that the best trial's true Sharpe ratio is above what luck alone gives the best, 0..1 ([2]).

    `probabilistic_sharpe` against `expected_max_sharpe`; all ratios, and their variance, are per bar.
    """
    benchmark = expected_max_sharpe(trials, variance_of_trial_sharpes)
    return probabilistic_sharpe(sharpe_per_bar, benchmark, bars, skew, kurtosis)


@kernel
def block_moments(returns: FloatArray, blocks: int = BLOCKS) -> tuple[FloatArray, FloatArray, IntArray]:
    """Sums, sums of squares and counts of the returns (n,) in contiguous blocks, each of shape (blocks,).

    Block k holds bars k*n//blocks to (k+1)*n//blocks, so sizes differ by one bar at most.
    """
    n = len(returns)
    sums, squares, counts = np.zeros(blocks), np.zeros(blocks), np.zeros(blocks, np.int64)
    for k in range(blocks):
        for i in range(k * n // blocks, (k + 1) * n // blocks):
            sums[k] += returns[i]
            squares[k] += returns[i] * returns[i]
            counts[k] += 1
    return sums, squares, counts


@dataclass(frozen=True)
class BacktestOverfitting:
    """What the choice of the best trial was worth on bars it was not chosen on, one entry a split, shape (splits,).

    `in_sample` and `out_of_sample` are the Sharpe ratios of the chosen trial, `logits` log(w / (1 - w)) of its relative
    rank w out of sample: below 0 is below the median. `pbo` is the share of logits <= 0. NaN and empty where undefined.
    """

    pbo: float
    logits: FloatArray
    in_sample: FloatArray
    out_of_sample: FloatArray

    @property
    def degradation(self) -> float:
        """Slope of the regression of the performance out of sample on that in sample ([3]); NaN if undefined."""
        if len(self.in_sample) < 2 or self.in_sample.std() < _ZERO_DEVIATION:
            return math.nan
        around = self.in_sample - self.in_sample.mean()
        return float(around @ self.out_of_sample / (around @ around))

    @property
    def probability_of_loss(self) -> float:
        """Share of splits in which the chosen trial loses out of sample, 0..1 ([3])."""
        return float((self.out_of_sample < 0).mean()) if len(self.out_of_sample) else math.nan


@kernel
def _sharpes(sums: FloatArray, squares: FloatArray, count: int, out: FloatArray) -> None:
    for t in range(len(out)):
        spread = squares[t] - sums[t] * sums[t] / count
        deviation = math.sqrt(max(spread, 0.0) / (count - 1))
        flat = deviation < _ZERO_DEVIATION or spread <= _ROUNDING * squares[t]
        out[t] = 0.0 if flat else sums[t] / count / deviation


@kernel
def _choose(chosen_on: FloatArray, judged_on: FloatArray) -> tuple[float, float, float]:
    """Performance of the best trial on both halves, and its odds on the second: rank / (trials + 1 - rank)."""
    best = np.argmax(chosen_on)
    value = judged_on[best]
    below, equal = 0, 0
    for t in range(len(judged_on)):
        below += judged_on[t] < value
        equal += judged_on[t] == value
    rank = below + (equal + 1) / 2
    return chosen_on[best], value, rank / (len(judged_on) + 1 - rank)


@kernel
def _cross_validate(sums: FloatArray, squares: FloatArray, counts: IntArray, halves: IntArray) -> FloatArray:
    """Rows (in sample, out of sample, odds): two for each row of `halves`, chosen on its blocks and on the others.

    `sums` and `squares` are (blocks, trials); sums run over the blocks in time order.
    """
    blocks, trials = sums.shape
    rows = np.empty((2 * len(halves), 3))
    total, total_squares = np.empty((2, trials)), np.empty((2, trials))
    sharpes = np.empty((2, trials))
    side, count = np.empty(blocks, np.int64), np.empty(2, np.int64)
    for h in range(len(halves)):
        total[:], total_squares[:], count[:], side[:] = 0.0, 0.0, 0, 1
        for k in halves[h]:
            side[k] = 0
        for k in range(blocks):
            s = side[k]
            count[s] += counts[k]
            for t in range(trials):
                total[s, t] += sums[k, t]
                total_squares[s, t] += squares[k, t]
        for s in range(2):
            _sharpes(total[s], total_squares[s], count[s], sharpes[s])
        rows[2 * h] = _choose(sharpes[0], sharpes[1])
        rows[2 * h + 1] = _choose(sharpes[1], sharpes[0])
    return rows


def probability_of_backtest_overfitting(
    block_sums: FloatArray,
    block_squares: FloatArray,
    block_counts: IntArray,
    *,
    cancelled: IsCancelled | None = None,
) -> BacktestOverfitting:
    """Combinatorially symmetric cross-validation of the choice of the trial with the best Sharpe ratio ([3]).

    Half of the blocks is the sample a trial is chosen on, the other half what it is judged on, in every split of S
    blocks into halves: S! / (S/2)!^2, 12,870 for 16. Needed are `block_moments` of each trial, not its returns.
    Splits come in pairs that swap the halves, in the lexicographic order of the half with the first block.

    A deviation of zero gives the ratio 0: an account that does nothing stands between those that win and those that
    lose. Of equally good trials in sample the first is chosen; equally good ones out of sample share their mean rank.
    The rule logit <= 0 of [3] counts the median itself as overfitted, so trials that are all alike give 1.

    Parameters
    ----------
    block_sums, block_squares
        Sums of the bar returns and of their squares, shape (trials, blocks); blocks even, 2 to 20.
    block_counts
        Bars in each block, the same for all trials, shape (blocks,).
    cancelled
        Asked at least once a second; true ends the work.

    Returns
    -------
    BacktestOverfitting
        Undefined (NaN, no splits) with fewer than two trials or with a block of fewer than two bars.

    Raises
    ------
    InvalidRequest
        For shapes that do not fit, an odd number of blocks or too many.
    Cancelled
        If `cancelled()` became true.
    """
    blocks = len(block_counts)
    if block_sums.shape != block_squares.shape or block_sums.shape[1:] != (blocks,):
        raise InvalidRequest(
            f"block sums {block_sums.shape}, squares {block_squares.shape} and counts {block_counts.shape} do not fit; "
            "expected (trials, blocks) twice and (blocks,)"
        )
    if blocks % 2 or not 2 <= blocks <= _MOST_BLOCKS:
        raise InvalidRequest(f"{blocks} blocks are not accepted; expected an even number from 2 to {_MOST_BLOCKS}")
    trials = len(block_sums)
    if trials < 2 or block_counts.min() < 2:
        nothing = np.empty(0)
        return BacktestOverfitting(math.nan, nothing, nothing, nothing)
    sums, squares = np.ascontiguousarray(block_sums.T), np.ascontiguousarray(block_squares.T)
    halves = ((0, *rest) for rest in combinations(range(1, blocks), blocks // 2 - 1))
    rows = []
    while chunk := list(islice(halves, max(1, _STEPS_A_LOOK // trials))):
        if cancelled is not None and cancelled():
            raise Cancelled(f"cross-validation of {trials} trials was cancelled")
        rows.append(_cross_validate(sums, squares, block_counts, np.array(chunk, dtype=np.int64)))
    in_sample, out_of_sample, odds = np.concatenate(rows).T
    return BacktestOverfitting(float((odds <= 1).mean()), np.log(odds), in_sample, out_of_sample)
