"""Overfitting guards: the papers' own examples, and the cross-validation once more on the full matrix of returns."""

from __future__ import annotations

import math
import tracemalloc
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coin_hts_pipelines.backtest.overfitting import (
    BacktestOverfitting,
    block_moments,
    deflated_sharpe,
    expected_max_sharpe,
    minimum_track_record_length,
    probabilistic_sharpe,
    probability_of_backtest_overfitting,
    return_moments,
)
from coin_hts_pipelines.errors import Cancelled, InvalidRequest

NAN = math.nan

# ------------------------------------------------------------------------------------------------ Sharpe under trials

# Bailey and Lopez de Prado 2012: two years of monthly returns with a Sharpe ratio of 0.458, first as if normal.
PSR_2012 = [
    pytest.param(0.458, 0.0, 24, 0.0, 3.0, 0.982, id="normal returns"),
    pytest.param(0.458, 0.0, 24, -2.448, 10.164, 0.913, id="their skewness and kurtosis"),
    pytest.param(0.1, 0.1, 500, -1.0, 9.0, 0.5, id="equal to the benchmark"),
    pytest.param(0.0, 0.1, 101, 0.0, 3.0, NormalDist().cdf(-1), id="by hand"),
    pytest.param(0.5, 0.0, 17, 0.0, 5.0, NormalDist().cdf(2 / math.sqrt(1.25)), id="by hand, kurtosis"),
    pytest.param(0.5, 0.0, 17, 1.0, 1.0, NormalDist().cdf(2 / math.sqrt(0.5)), id="by hand, skewness"),
    pytest.param(0.5, 0.0, 1, 0.0, 3.0, NAN, id="one bar"),
    pytest.param(NAN, 0.0, 100, NAN, NAN, NAN, id="undefined"),
    pytest.param(1.0, 0.0, 100, 2.0, 5.0, NAN, id="two values alone can have no error left"),
]


@pytest.mark.parametrize(("sharpe", "benchmark", "bars", "skew", "kurtosis", "expected"), PSR_2012)
def test_probabilistic_sharpe(
    sharpe: float, benchmark: float, bars: int, skew: float, kurtosis: float, expected: float
) -> None:
    found = probabilistic_sharpe(sharpe, benchmark, bars, skew, kurtosis)
    assert found == pytest.approx(expected, abs=5e-4, nan_ok=True)


# The same paper: years until an annual ratio of 2 is above 1 with 95 % confidence.
TRACK_RECORDS = [
    pytest.param(252, 0.0, 3.0, 2.73, id="daily"),
    pytest.param(52, 0.0, 3.0, 2.83, id="weekly"),
    pytest.param(12, 0.0, 3.0, 3.24, id="monthly"),
    pytest.param(12, -0.72, 5.78, 4.99, id="monthly, a hedge fund index"),
]


@pytest.mark.parametrize(("periods", "skew", "kurtosis", "years"), TRACK_RECORDS)
def test_minimum_track_record_length(periods: int, skew: float, kurtosis: float, years: float) -> None:
    sharpe, benchmark = 2 / math.sqrt(periods), 1 / math.sqrt(periods)
    bars = minimum_track_record_length(sharpe, benchmark, skew, kurtosis)
    assert bars / periods == pytest.approx(years, abs=5e-3)
    assert probabilistic_sharpe(sharpe, benchmark, bars, skew, kurtosis) == pytest.approx(0.95)
    longer = minimum_track_record_length(sharpe, benchmark, skew, kurtosis, confidence=0.99)
    assert probabilistic_sharpe(sharpe, benchmark, longer, skew, kurtosis) == pytest.approx(0.99)


@pytest.mark.parametrize("sharpe", [0.1, 0.05, NAN])
def test_no_track_record_is_long_enough(sharpe: float) -> None:
    assert math.isnan(minimum_track_record_length(sharpe, 0.1, 0.0, 3.0))


@pytest.mark.parametrize("confidence", [0.5, 1.0, NAN])
def test_confidence_out_of_range(confidence: float) -> None:
    with pytest.raises(InvalidRequest, match=r"expected 0.5 < confidence < 1"):
        minimum_track_record_length(0.2, 0.1, 0.0, 3.0, confidence)


# Bailey and Lopez de Prado 2014: five years of 250 days, the best annual ratio 2.5, its variance over the trials 1/2.
DSR_2014 = [
    pytest.param(100, -3.0, 10.0, 0.9004, id="100 trials"),
    pytest.param(46, -3.0, 10.0, 0.9505, id="46 trials"),
    pytest.param(88, 0.0, 3.0, 0.9505, id="88 trials, normal returns"),
]


@pytest.mark.parametrize(("trials", "skew", "kurtosis", "expected"), DSR_2014)
def test_deflated_sharpe(trials: int, skew: float, kurtosis: float, expected: float) -> None:
    found = deflated_sharpe(2.5 / math.sqrt(250), trials, 0.5 / 250, 1250, skew, kurtosis)
    assert found == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("trials", "variance", "expected"),
    [
        pytest.param(100, 0.5 / 250, 0.1132, id="2014: 100 trials"),
        pytest.param(10, 1.0, 1.57, id="Pseudo-Mathematics and Financial Charlatanism 2014: 10 trials"),
        pytest.param(45, 1.0, math.sqrt(5), id="the same: 5 years of data for 45 trials"),
        pytest.param(1, 1.0, 0.0, id="one trial is no choice"),
        pytest.param(1, NAN, 0.0, id="one trial has no variance"),
        pytest.param(50, 0.0, 0.0, id="all trials alike"),
        pytest.param(50, NAN, NAN, id="undefined variance"),
    ],
)
def test_expected_max_sharpe(trials: int, variance: float, expected: float) -> None:
    assert expected_max_sharpe(trials, variance) == pytest.approx(expected, rel=3e-3, nan_ok=True)


@pytest.mark.parametrize("trials", [5, 10, 100, 1000, 100_000])
def test_expected_max_sharpe_is_that_of_normal_numbers(trials: int) -> None:
    # The exact expectation is the integral of x over the density of the maximum; the formula is an approximation.
    grid = np.linspace(-10, 10, 20_001)
    share = np.array([NormalDist().cdf(x) for x in grid]) ** trials
    exact = float(((grid[1:] + grid[:-1]) / 2) @ np.diff(share))
    assert expected_max_sharpe(trials, 4.0) == pytest.approx(2 * exact, rel=0.03)


def test_trials_out_of_range() -> None:
    with pytest.raises(InvalidRequest, match="trials = 0 is not accepted; expected at least 1"):
        expected_max_sharpe(0, 1.0)


@pytest.mark.parametrize(
    ("returns", "expected", "sharpe"),
    [
        pytest.param([0, 0, 0, 1], (0.25, 0.5, 0.09375 / 0.1875**1.5, 7 / 3), 0.5, id="by hand"),
        pytest.param([-1, 1], (0, math.sqrt(2), 0, 1), 0, id="two values"),
        pytest.param([], (NAN, NAN, NAN, NAN), NAN, id="no bar"),
        pytest.param([0.5], (0.5, NAN, NAN, NAN), NAN, id="one bar"),
        pytest.param([0, 0, 0], (0, 0, NAN, NAN), NAN, id="nothing happens"),
        pytest.param([0.1 + 0.2, 0.3, 0.3], (0.3, 0, NAN, NAN), NAN, id="rounding noise"),
    ],
)
def test_return_moments(returns: list[float], expected: tuple[float, ...], sharpe: float) -> None:
    found = return_moments(np.array(returns, dtype=np.float64))
    assert tuple(found) == pytest.approx(expected, nan_ok=True)
    assert found.sharpe == pytest.approx(sharpe, nan_ok=True)


# --------------------------------------------------------------------------------------------------- cross-validation


def moments_of(matrix: Any, blocks: int) -> tuple[Any, Any, Any]:
    """Sums, squares (trials, blocks) and counts (blocks,) of a matrix of returns (bars, trials)."""
    rows = [block_moments(np.ascontiguousarray(column), blocks) for column in matrix.T]
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), rows[0][2]


def validated(matrix: Any, blocks: int) -> BacktestOverfitting:
    return probability_of_backtest_overfitting(*moments_of(matrix, blocks))


def literal(matrix: Any, blocks: int) -> list[tuple[float, float, float]]:
    """In-sample and out-of-sample ratio of the choice and its logit: the paper's steps on the full matrix."""
    bars, trials = matrix.shape
    pieces = [matrix[k * bars // blocks : (k + 1) * bars // blocks] for k in range(blocks)]

    def ratios(half: tuple[int, ...]) -> list[float]:
        joined = np.concatenate([pieces[k] for k in half])
        return [
            float(column.mean() / column.std(ddof=1)) if column.std(ddof=1) > 1e-14 else 0.0
            for column in (np.ascontiguousarray(joined[:, t]) for t in range(trials))
        ]

    rows = {}
    for half in combinations(range(blocks), blocks // 2):
        other = tuple(k for k in range(blocks) if k not in half)
        inside, outside = ratios(half), ratios(other)
        best = inside.index(max(inside))
        ranks = [place for place, value in enumerate(sorted(outside), start=1) if value == outside[best]]
        relative = sum(ranks) / len(ranks) / (trials + 1)
        rows[half] = (inside[best], outside[best], math.log(relative / (1 - relative)))
    swapped = [half for first in rows if 0 in first for half in (first, tuple(sorted({*range(blocks)} - {*first})))]
    assert sorted(swapped) == sorted(rows)
    return [rows[half] for half in swapped]


def noise(bars: int, trials: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(0, 0.01, (bars, trials))


def with_twins(matrix: Any) -> Any:
    return np.column_stack([matrix, matrix[:, ::-1], matrix[:, :1]])


def with_idle(matrix: Any) -> Any:
    idle = matrix.copy()
    idle[:, 1] = 0.0
    idle[: len(matrix) // 2, 2] = 0.0
    idle[:, 3] *= 1e-14
    idle[:, 4:] = [0.1, 0.7]  # their sums are rounded
    return idle


MATRICES = [
    pytest.param(noise(8, 3, 0), 2, id="two blocks"),
    pytest.param(noise(40, 2, 1), 4, id="two trials"),
    pytest.param(noise(61, 7, 2), 6, id="blocks of unequal length"),
    pytest.param(noise(200, 20, 3), 8, id="eight blocks"),
    pytest.param(noise(100, 9, 4) + np.linspace(-0.003, 0.003, 9), 8, id="trials of different worth"),
    pytest.param(noise(100, 9, 5) - 0.004, 6, id="trials that lose"),
    pytest.param(with_twins(noise(90, 4, 6)), 6, id="equal trials"),
    pytest.param(with_idle(noise(90, 6, 7)), 6, id="trials that do nothing, or always the same"),
    pytest.param(noise(60, 5, 8) * np.geomspace(1e-6, 1e3, 5), 6, id="trials of different size"),
]


@pytest.mark.parametrize(("matrix", "blocks"), MATRICES)
def test_cross_validation_literally(matrix: Any, blocks: int) -> None:
    inside, outside, logits = zip(*literal(matrix, blocks), strict=True)
    found = validated(matrix, blocks)
    assert found.in_sample == pytest.approx(inside, rel=1e-9, abs=1e-12)
    assert found.out_of_sample == pytest.approx(outside, rel=1e-9, abs=1e-12)
    assert found.logits == pytest.approx(logits, abs=1e-12)
    assert found.pbo == sum(logit <= 1e-12 for logit in logits) / len(logits)
    assert found.probability_of_loss == sum(value < 0 for value in outside) / len(outside)
    slope = np.polyfit(inside, outside, 1)[0]
    assert found.degradation == pytest.approx(slope, rel=1e-6)


def test_sixteen_blocks_are_12870_splits() -> None:
    found = validated(noise(160, 5, 1), 16)
    assert len(found.logits) == len(found.in_sample) == len(found.out_of_sample) == 12_870


def test_a_trial_better_in_every_block_is_no_overfitting() -> None:
    matrix = noise(320, 30, 1)
    matrix[:, 17] += 0.05
    found = validated(matrix, 16)
    assert found.pbo == 0
    assert found.logits == pytest.approx(math.log(30))
    assert found.probability_of_loss == 0


def test_a_trial_good_in_one_half_alone_is_overfitting() -> None:
    # Two blocks: each trial gains in one and loses in the other, so the choice is always the worse one.
    swing = np.array([1, 3, 1, 3, -1, -3, -1, -3]) / 64
    found = validated(np.column_stack([swing, -swing]), 2)
    # Mean 1/32 over the deviation of 1, 3, 1, 3 (64ths), which is sqrt(4/3)/64.
    assert found.in_sample == pytest.approx([math.sqrt(3)] * 2)
    assert found.out_of_sample == pytest.approx([-math.sqrt(3)] * 2)
    assert found.logits == pytest.approx([math.log(1 / 2)] * 2)
    assert (found.pbo, found.probability_of_loss) == (1, 1)
    assert math.isnan(found.degradation)  # one point


def test_choosing_among_noise_is_a_coin_toss() -> None:
    # Within one sample splits depend on each other, and one pbo scatters by about 0.2.
    found = [validated(noise(160, 20, seed), 10).pbo for seed in range(60)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "matrix", [np.zeros((32, 5)), np.repeat(noise(32, 1, 3), 4, axis=1)], ids=["no trial ever trades", "all the same"]
)
def test_trials_all_alike_stand_at_the_median(matrix: Any) -> None:
    found = validated(matrix, 8)
    assert found.logits.tolist() == [0.0] * 70
    assert found.pbo == 1


values = st.integers(-64, 64).map(lambda k: k / 1024)


@given(
    arrays(np.float64, st.tuples(st.just(24), st.integers(2, 6)), elements=values),
    st.permutations(range(6)),
    st.lists(st.sampled_from([0.25, 1.0, 2.0, 64.0]), min_size=6, max_size=6),
)
def test_neither_the_order_of_blocks_nor_the_size_of_trials_matters(
    matrix: Any, order: list[int], sizes: list[float]
) -> None:
    trials = matrix.shape[1]
    shuffled = np.concatenate([matrix[k * 4 : k * 4 + 4] for k in order]) * np.array(sizes[:trials])
    found, other = validated(matrix, 6), validated(shuffled, 6)
    assert sorted(other.logits) == sorted(found.logits)
    assert other.pbo == found.pbo
    assert sorted(other.in_sample) == sorted(found.in_sample)
    assert (np.abs(found.logits) <= math.log(trials) + 1e-12).all()


UNDEFINED = [
    pytest.param(noise(40, 1, 0), 4, id="one trial"),
    pytest.param(noise(40, 0, 0)[:, :0], 4, id="no trial"),
    pytest.param(noise(7, 3, 0), 4, id="a block of one bar"),
    pytest.param(noise(3, 3, 0), 4, id="a block without a bar"),
]


@pytest.mark.parametrize(("matrix", "blocks"), UNDEFINED)
def test_undefined(matrix: Any, blocks: int) -> None:
    counts = block_moments(np.zeros(len(matrix)), blocks)[2]
    sums = np.zeros((matrix.shape[1], blocks))
    found = probability_of_backtest_overfitting(sums, sums, counts)
    assert [len(part) for part in (found.logits, found.in_sample, found.out_of_sample)] == [0, 0, 0]
    assert all(math.isnan(value) for value in (found.pbo, found.degradation, found.probability_of_loss))


REFUSED = [
    pytest.param((3, 4), (3, 5), 4, r"do not fit; expected \(trials, blocks\) twice", id="squares"),
    pytest.param((3, 4), (3, 4), 6, "do not fit", id="counts"),
    pytest.param((4,), (4,), 4, "do not fit", id="one trial without its axis"),
    pytest.param((3, 5), (3, 5), 5, "5 blocks are not accepted; expected an even number from 2 to 20", id="odd"),
    pytest.param((3, 0), (3, 0), 0, "0 blocks", id="none"),
    pytest.param((3, 22), (3, 22), 22, "22 blocks", id="too many"),
]


@pytest.mark.parametrize(("sums", "squares", "counts", "said"), REFUSED)
def test_refused(sums: tuple[int, ...], squares: tuple[int, ...], counts: int, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        probability_of_backtest_overfitting(np.zeros(sums), np.zeros(squares), np.full(counts, 9))


@pytest.mark.parametrize(
    ("bars", "blocks", "expected"),
    [(16, 16, [1] * 16), (10, 4, [2, 3, 2, 3]), (3, 4, [0, 1, 1, 1]), (0, 2, [0, 0])],
)
def test_block_moments(bars: int, blocks: int, expected: list[int]) -> None:
    returns = np.arange(1.0, bars + 1)
    sums, squares, counts = block_moments(returns, blocks)
    assert counts.tolist() == expected
    pieces = np.split(returns, np.cumsum(expected)[:-1])
    assert sums.tolist() == [piece.sum() for piece in pieces]
    assert squares.tolist() == [(piece**2).sum() for piece in pieces]


def test_memory_does_not_grow_with_splits_times_trials() -> None:
    moments = moments_of(noise(160, 400, 1), 16)
    probability_of_backtest_overfitting(*moments)
    tracemalloc.start()
    try:
        probability_of_backtest_overfitting(*moments)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12_870 * 400 * 8 / 4


def test_cancel() -> None:
    answers = iter([False, True])
    moments = moments_of(noise(160, 4000, 1), 16)
    with pytest.raises(Cancelled, match="cross-validation of 4000 trials was cancelled"):
        probability_of_backtest_overfitting(*moments, cancelled=lambda: next(answers))
