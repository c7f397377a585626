"""Guards of a sweep against the slow way: every account by itself, the full matrix of returns, every split by hand."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
import tracemalloc
from itertools import combinations
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from coin_hts_pipelines.backtest import (
    BacktestRequest,
    Costs,
    Exits,
    Guards,
    Regime,
    Sampling,
    Sizing,
    SweepResult,
    overfitting_guards,
    run_backtest,
    run_sweep,
)
from coin_hts_pipelines.backtest.guards import GUARDS, probability_text
from coin_hts_pipelines.backtest.sampling import Between
from coin_hts_pipelines.backtest.trial_returns import trial_moments, trial_returns
from coin_hts_pipelines.errors import Cancelled, InvalidRequest
from coin_hts_pipelines.strategies import registry
from coin_hts_pipelines.strategies.base import Param, Strategy
from coin_hts_pipelines_tests.candle_maker import flat, random_walk

NAN = math.nan
LONG, ZONE, SMA = "volume_long_candle", "volume_zone_breakout", "sma_cross"
Matrix = npt.NDArray[np.float64]

GRID = {"body_pct": [0.005, 0.01], "hold_period_bars": [1, 3, 8], "stop_loss": [None, 0.03]}
# Every rule that decides a bar return.
RUNS: dict[str, tuple[BacktestRequest, dict[str, Any]]] = {
    "plain": (BacktestRequest(LONG), GRID),
    "next open": (BacktestRequest(LONG, fill="next_open", exits=Exits(take_profit=0.05)), GRID),
    "half of the account": (BacktestRequest(LONG, sizing=Sizing(fraction=0.5)), GRID),
    "by risk": (BacktestRequest(LONG, sizing=Sizing(risk=0.02)), {**GRID, "trailing_stop": [0.05, None]}),
    "regime": (BacktestRequest(LONG, regime=(Regime("ma_divergence_20", ">", 0.0),)), GRID),
    "sell signals": (BacktestRequest(SMA), {"fast_window": [3, 5], "slow_window": [10, 20], "hold_period_bars": [50]}),
    "no sell signals": (BacktestRequest(SMA, exits=Exits(signal_exit=False)), {"fast_window": [3, 5, 8]}),
    "open at the end": (BacktestRequest(LONG), {"hold_period_bars": [400, 500]}),
    "nothing bought": (BacktestRequest(LONG), {"body_pct": [0.1, 0.099]}),
}


def slow_matrix(candles: pd.DataFrame, sweep: SweepResult) -> Matrix:
    """Bar returns (trials, bars) from each backtest's own equity."""
    rows = []
    for row in range(len(sweep.table)):
        equity = run_backtest(candles, sweep.request_of(row)).equity["equity"].to_numpy()
        before = np.concatenate([[sweep.request.initial_cash], equity[:-1]])
        rows.append(equity / before - 1)
    return np.array(rows)


def slow_pbo(matrix: Matrix, blocks: int) -> tuple[float, float, int]:
    """Share of splits at or below the median, share that lose, number of splits."""
    bars = matrix.shape[1]
    parts = [np.arange(k * bars // blocks, (k + 1) * bars // blocks) for k in range(blocks)]

    def sharpes(chosen: tuple[int, ...]) -> Matrix:
        part = matrix[:, np.concatenate([parts[k] for k in sorted(chosen)])]
        spread = part.std(axis=1, ddof=1)
        return np.where(spread < 1e-12, 0.0, part.mean(axis=1) / np.where(spread < 1e-12, 1.0, spread))

    low, losses, splits = 0, 0, 0
    for half in combinations(range(blocks), blocks // 2):
        other = tuple(k for k in range(blocks) if k not in half)
        inside, outside = sharpes(half), sharpes(other)
        value = outside[int(np.argmax(np.round(inside, 12)))]
        equal = np.isclose(outside, value, rtol=0, atol=1e-12)
        rank = np.count_nonzero((outside < value) & ~equal) + (np.count_nonzero(equal) + 1) / 2
        share = rank / (len(outside) + 1)
        low += math.log(share / (1 - share)) <= 1e-12
        losses += value < -1e-12
        splits += 1
    return low / splits, losses / splits, splits


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("seed", [4, 5])
def test_returns_are_those_of_the_backtests(name: str, seed: int) -> None:
    request, grid = RUNS[name]
    candles = random_walk(350, seed, gaps=True)
    sweep = run_sweep(candles, request, grid)
    matrix = slow_matrix(candles, sweep)
    for row, expected in enumerate(matrix):
        np.testing.assert_allclose(trial_returns(sweep, row), expected, rtol=0, atol=1e-13)
    sums, squares, counts = trial_moments(sweep, 6)
    assert counts.sum() == 350
    edges = [k * 350 // 6 for k in range(7)]
    for k in range(6):
        part = matrix[:, edges[k] : edges[k + 1]]
        assert counts[k] == part.shape[1]
        np.testing.assert_allclose(sums[:, k], part.sum(axis=1), rtol=0, atol=1e-12)
        np.testing.assert_allclose(squares[:, k], (part**2).sum(axis=1), rtol=0, atol=1e-12)


# Accounts that no half of the bars makes equal but for rounding, which would decide between them.
APART = {
    "plain": (BacktestRequest(LONG, {"body_pct": 0.005}), {"hold_period_bars": [1, 2, 3, 5, 8, 13]}),
    "by risk": (
        BacktestRequest(LONG, {"body_pct": 0.005}, sizing=Sizing(risk=0.02), fill="next_open"),
        {"hold_period_bars": [2, 4, 7, 9], "trailing_stop": [0.03, 0.05]},
    ),
    "sell signals": (BacktestRequest(SMA), {"fast_window": [3, 5], "slow_window": [10, 20, 35]}),
}


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_guards_equal_the_slow_way(name: str, blocks: int) -> None:
    request, grid = APART[name]
    candles = random_walk(600, 6)
    sweep = run_sweep(candles, request, grid)
    guards = overfitting_guards(candles, sweep, top=3, blocks=blocks)
    matrix, trials = slow_matrix(candles, sweep), len(sweep.table)
    assert (guards.pbo, guards.probability_of_loss, guards.splits) == pytest.approx(slow_pbo(matrix, blocks))
    assert (guards.trials, guards.bars, guards.blocks, guards.notes) == (trials, 600, blocks, ())

    own = matrix.mean(axis=1) / matrix.std(axis=1, ddof=1)
    normal, euler = NormalDist(), 0.5772156649015329
    luck = (1 - euler) * normal.inv_cdf(1 - 1 / trials) + euler * normal.inv_cdf(1 - 1 / (trials * math.e))
    luck *= own.std(ddof=1)
    assert guards.expected_max_sharpe == pytest.approx(luck * math.sqrt(365), rel=1e-9)
    assert guards.sharpe_deviation == pytest.approx(own.std(ddof=1) * math.sqrt(365), rel=1e-9)
    assert guards.best["row"].tolist() == np.argsort(-sweep.table["sharpe"].to_numpy(), kind="stable")[:3].tolist()
    for row in guards.best.to_dict(orient="records"):
        returns = matrix[row["row"]]
        around = returns - returns.mean()
        skew = (around**3).mean() / (around**2).mean() ** 1.5
        kurtosis = (around**4).mean() / (around**2).mean() ** 2
        sharpe = returns.mean() / returns.std(ddof=1)
        error = math.sqrt((1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2) / 599)
        assert row["trials"] == trials
        assert (row["skew"], row["kurtosis"]) == pytest.approx((skew, kurtosis), rel=1e-9)
        assert row["probabilistic_sharpe"] == pytest.approx(normal.cdf(sharpe / error), rel=1e-9)
        assert row["deflated_sharpe"] == pytest.approx(normal.cdf((sharpe - luck) / error), rel=1e-8)
        needed = 1 + error**2 * 599 * (normal.inv_cdf(0.95) / sharpe) ** 2 if sharpe > 0 else NAN
        assert row["minimum_track_record"] == pytest.approx(needed, rel=1e-8, nan_ok=True)


def test_best_rows_keep_the_table_and_undefined_ones_are_left_out() -> None:
    candles = random_walk(400, 7)
    sweep = run_sweep(candles, BacktestRequest(LONG), {"body_pct": [0.1, 0.005, 0.01], "hold_period_bars": [1, 5]})
    assert sweep.table["profit_factor"].isna().tolist()[:2] == [True, True]
    guards = overfitting_guards(candles, sweep, rank_by="profit_factor")
    assert list(guards.best.columns) == ["row", *sweep.table.columns, "trials", *GUARDS]
    assert len(guards.best) == sweep.table["profit_factor"].notna().sum()
    assert guards.best["profit_factor"].is_monotonic_decreasing
    again = sweep.table.loc[guards.best["row"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(guards.best[list(sweep.table.columns)], again)
    assert len(overfitting_guards(candles, sweep, top=1).best) == 1


def test_equal_rows_stay_in_order() -> None:
    candles = random_walk(400, 7)
    grid = {"hold_period_bars": [5], "stop_loss": [0.9, 0.95, None, 0.99]}
    guards = overfitting_guards(candles, run_sweep(candles, BacktestRequest(LONG, {"body_pct": 0.005}), grid))
    assert guards.best["sharpe"].nunique() == 1
    assert guards.best["row"].tolist() == [0, 1, 2, 3]
    assert guards.pbo == 1.0, "trials that are all alike are no choice"


UNDEFINED = {
    "one trial": (random_walk(300, 8), {"hold_period_bars": [5]}, ("with one trial nothing was chosen",)),
    "too few bars": (random_walk(31, 9), {"hold_period_bars": [2, 5]}, ("31 bars do not make 16 blocks of 2",)),
    "one bar": (random_walk(1, 8), {"hold_period_bars": [2, 5]}, ("0 of 2 trials", "1 bars do not")),
    "nothing bought": (flat(300), {"hold_period_bars": [2, 5]}, ("0 of 2 trials has a Sharpe ratio",)),
}


@pytest.mark.parametrize(("candles", "grid", "reasons"), UNDEFINED.values(), ids=UNDEFINED)
def test_what_is_undefined_says_why(candles: pd.DataFrame, grid: dict[str, Any], reasons: tuple[str, ...]) -> None:
    request = BacktestRequest(LONG, {"body_pct": 0.005})
    guards = overfitting_guards(candles, run_sweep(candles, request, grid))
    assert len(guards.notes) == len(reasons)
    for note, reason in zip(guards.notes, reasons, strict=True):
        assert reason in note
    assert guards.warnings
    assert guards.verdict


def test_32_bars_are_enough() -> None:
    candles = random_walk(32, 8)
    guards = overfitting_guards(candles, run_sweep(candles, BacktestRequest(LONG), {"hold_period_bars": [2, 5]}))
    assert 0 <= guards.pbo <= 1


def test_one_trial_is_judged_against_zero() -> None:
    candles = random_walk(300, 8)
    request = BacktestRequest(LONG, {"body_pct": 0.005})
    row = overfitting_guards(candles, run_sweep(candles, request, {"hold_period_bars": [5]})).best.iloc[0]
    assert row["deflated_sharpe"] == row["probabilistic_sharpe"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top": 0}, "top = 0 is not accepted; expected a whole number from 1 to 1,000"),
        ({"top": 1.5}, "top = 1.5"),
        ({"top": True}, "top = True"),
        ({"rank_by": "fees_paid"}, "rank_by 'fees_paid' is not accepted; expected one of sharpe, sortino"),
        ({"blocks": 3}, "blocks = 3 is not accepted; expected an even number from 2 to 20"),
        ({"blocks": 22}, "blocks = 22"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    candles = random_walk(100, 1)
    sweep = run_sweep(candles, BacktestRequest(LONG), {"hold_period_bars": [1, 2]})
    with pytest.raises(InvalidRequest, match=message):
        overfitting_guards(candles, sweep, **arguments)


@pytest.mark.parametrize("other", [random_walk(100, 2), random_walk(99, 1)], ids=["other prices", "fewer bars"])
def test_other_candles_are_refused(other: pd.DataFrame) -> None:
    sweep = run_sweep(random_walk(100, 1), BacktestRequest(LONG), {"hold_period_bars": [1, 2]})
    with pytest.raises(InvalidRequest, match="candles are not the 100 of the sweep"):
        overfitting_guards(other, sweep)


def test_cancel_and_progress() -> None:
    candles = random_walk(500, 1)
    sweep = run_sweep(candles, BacktestRequest(LONG), {"hold_period_bars": [1, 2], "body_pct": [0.005, 0.01]})
    seen: list[float] = []
    overfitting_guards(candles, sweep, progress=seen.append, cancelled=lambda: False)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    with pytest.raises(Cancelled):
        overfitting_guards(candles, sweep, cancelled=lambda: True)


class Meeting(Strategy):
    """Goes on only when as many threads as expected are here, and notes how many there are."""

    name = "meeting"
    params = (Param("every", 3, 1, 100, "bars between two signals"),)
    most = 1
    inside: ClassVar[list[int]] = []
    seen: ClassVar[list[int]] = []

    def compute(self, candles: Any, params: Any, start: int, stop: int) -> Any:
        self.inside.append(start)
        self.seen.append(len(self.inside))
        deadline = time.monotonic() + 30
        while len(self.inside) < self.most and max(self.seen) < self.most and time.monotonic() < deadline:
            threading.Event().wait(0.001)
        threading.Event().wait(0.02)  # long enough for one that should not be here to come in
        self.inside.remove(start)
        return np.arange(start, stop) % params["every"] == 0, np.ones(stop - start)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_sweep_and_its_guards_use_as_many_threads_as_they_are_given(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setitem(registry._found(), "meeting", Meeting())
    candles, grid = random_walk(60, 1), {"every": [2, 3, 4, 5, 6]}
    monkeypatch.setattr(Meeting, "most", threads)
    monkeypatch.setattr(Meeting, "seen", [])
    sweep = run_sweep(candles, BacktestRequest("meeting"), grid, threads=threads)
    assert max(Meeting.seen) == threads
    Meeting.seen.clear()
    guards = overfitting_guards(candles, sweep, threads=threads)
    assert max(Meeting.seen) == threads
    monkeypatch.setattr(Meeting, "most", 1)
    other = run_sweep(candles, BacktestRequest("meeting"), grid)
    assert other.table_digest == sweep.table_digest
    pd.testing.assert_frame_equal(overfitting_guards(candles, other).best, guards.best, check_exact=True)


def test_memory_is_that_of_the_blocks() -> None:
    candles = random_walk(20_000, 1, timeframe="1H")
    request = BacktestRequest(LONG, {"body_pct": 0.02}, "1H", costs=Costs(0.0, 0.0))
    sweep = run_sweep(candles, request, {"hold_period_bars": Between(1, 200)})
    tracemalloc.start()
    overfitting_guards(candles, sweep, top=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16e6, "the matrix alone would be 32 MB"


# ---- words

BEST = {"sharpe": 1.9, "deflated_sharpe": 0.61, "trades": 300, "probabilistic_sharpe": 0.98}
GOOD = {"pbo": 0.02, "probability_of_loss": 0.1, "splits": 12_870, "expected_max_sharpe": 1.74, "trials": 300}


def judged(best: dict[str, float] | None = None, **changes: Any) -> Guards:
    figures: dict[str, Any] = {**GOOD, **changes}
    frame = pd.DataFrame([{**BEST, **(best or {})}]) if best is not None else pd.DataFrame([BEST]).iloc[:0]
    return Guards(rank_by="sharpe", best=frame, bars=1000, blocks=16, sharpe_deviation=0.6, notes=(), **figures)


HEAD = "The best of 300 trials, by Sharpe ratio, has a Sharpe ratio of 1.90."
LUCK = (
    " The best of as many trials without any skill is expected to show 1.74: luck alone reaches what the best one shows"
)
SPLITS = (
    " Chosen on one half of the bars, the winner is no better than the median trial on the other half in 2% of 12,870 "
    "splits, and loses there in 10%."
)
ONE = "The one trial has a Sharpe ratio of 1.90."
NOTHING = "Sharpe ratio: there is nothing to choose from."
VERDICTS = [
    (judged({}), f"{HEAD}{LUCK} with a probability of 39%.{SPLITS}"),
    (judged({"deflated_sharpe": 0.9999}, pbo=NAN), f"{HEAD}{LUCK} with a probability of less than 1%."),
    (
        judged({}, trials=1, pbo=NAN),
        f"{ONE} A strategy without any skill shows as much with a probability of 39%.",
    ),
    (
        judged({"sharpe": NAN, "deflated_sharpe": NAN}, pbo=NAN),
        "The best of 300 trials, by Sharpe ratio, has no defined Sharpe ratio.",
    ),
    (judged(), f"None of 300 trials has a defined {NOTHING}"),
    (judged(trials=1), f"The one trial has no defined {NOTHING}"),
]


@pytest.mark.parametrize(("guards", "words"), VERDICTS)
def test_the_verdict_in_plain_words(guards: Guards, words: str) -> None:
    assert guards.verdict == words


WARNINGS = [
    (judged({"deflated_sharpe": 0.95}, pbo=0.05), []),
    (judged({"deflated_sharpe": 0.949}), ["deflated Sharpe ratio is 0.95, 0.95 is asked for: the luck of 300 trials"]),
    (judged({"deflated_sharpe": 0.001}), ["deflated Sharpe ratio is <0.01"]),
    (judged({"deflated_sharpe": 0.96}, pbo=0.051), ["probability of overfitting is 0.05, at most 0.05 is asked for."]),
    (judged({"deflated_sharpe": 0.96}, pbo=0.5), ["0.50, at most 0.05 is asked for: a coin chooses as well"]),
    (judged({"deflated_sharpe": 0.96}, pbo=NAN), ["probability of overfitting is undefined"]),
    (judged({"deflated_sharpe": NAN}), ["deflated Sharpe ratio is undefined"]),
    (judged({"deflated_sharpe": 0.96, "trades": 29}), ["closed 29 trades: too few"]),
    (judged({"deflated_sharpe": 0.96, "sharpe": -0.2}), ["earns nothing for its risk: its Sharpe ratio is -0.20"]),
    (judged({"deflated_sharpe": 0.1, "trades": 1}, pbo=0.6), ["1 trade:", "deflated Sharpe", "a coin"]),
    (judged(), ["there is nothing to choose from"]),
]


@pytest.mark.parametrize(("guards", "words"), WARNINGS)
def test_what_speaks_against_the_best_row(guards: Guards, words: list[str]) -> None:
    assert len(guards.warnings) == len(words)
    for warning, part in zip(guards.warnings, words, strict=True):
        assert part in warning


@pytest.mark.parametrize(
    ("value", "text"),
    [(NAN, "–"), (0.0, "<0.01"), (0.0049, "<0.01"), (0.005, "0.01"), (0.5, "0.50"), (0.9949, "0.99"), (1.0, ">0.99")],
)
def test_a_probability_is_never_a_certainty(value: float, text: str) -> None:
    assert probability_text(value) == text


def test_luck_is_called_luck() -> None:
    """Where there is nothing to find, the best of many trials is not certified."""
    certified = 0
    for seed in range(20):
        candles = random_walk(800, 100 + seed)
        request = BacktestRequest(ZONE, costs=Costs(0.0, 0.0))
        space = {"volume_window": Between(10, 60), "breakout_buffer": Between(0.0, 0.01), "hold_period_bars": [1, 3, 5]}
        sweep = run_sweep(candles, request, space, sampling=Sampling("lhs", 40, seed))
        certified += not overfitting_guards(candles, sweep).warnings
    assert certified <= 1


def test_a_row_knows_its_request() -> None:
    candles = random_walk(300, 4)
    sweep = run_sweep(candles, BacktestRequest(LONG), GRID)
    assert sweep.names == tuple(GRID)
    assert dataclasses.replace(sweep.request_of(3), params={}).exits.stop_loss == 0.03
