"""Bootstraps: a literal drawing of bars, what must come out of simple series, the same runs for the same seed."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines.backtest import BacktestRequest, Sizing, run_backtest
from coin_hts_pipelines.backtest.monte_carlo import (
    LEVELS,
    MonteCarlo,
    account_returns,
    block_bootstrap,
    bootstrap_trades,
)
from coin_hts_pipelines.errors import Cancelled, InvalidRequest
from coin_hts_pipelines_tests.candle_maker import random_walk

CASH = 1024.0


def floats(*values: float) -> Any:
    return np.array(values, dtype=np.float64)


def compounded(returns: Any) -> tuple[float, float]:
    path = CASH * np.cumprod(1 + np.asarray(returns))
    peak = np.maximum.accumulate(np.maximum(path, CASH))
    return float(path[-1]), float((path / peak - 1).min())


def literal(returns: Any, block_bars: int, runs: int, seed: int) -> list[tuple[float, float]]:
    """Politis and Romano's definition, bar by bar, from the same stream of random numbers."""
    generator, n, rows = np.random.Generator(np.random.PCG64(seed)), len(returns), []
    for _ in range(runs):
        new = [i == 0 or draw < 1 / block_bars for i, draw in enumerate(generator.random(n))]
        starts = iter(generator.integers(n, size=sum(new)))
        bars: list[int] = []
        for begins in new:
            bars.append(int(next(starts)) if begins else (bars[-1] + 1) % n)
        rows.append(compounded([returns[bar] for bar in bars]))
    return rows


def rows_of(found: MonteCarlo) -> list[tuple[float, float]]:
    return list(zip(found.final_equity.tolist(), found.max_drawdown.tolist(), strict=True))


@pytest.mark.parametrize(("n", "block_bars"), [(1, 1), (1, 5), (2, 1), (37, 4), (200, 20), (50, 500)])
def test_stationary_bootstrap_literally(n: int, block_bars: int) -> None:
    returns = np.random.default_rng(n).normal(0, 0.05, n)
    found = rows_of(block_bootstrap(returns, CASH, block_bars, runs=20, seed=7))
    assert found == [pytest.approx(row, rel=1e-12) for row in literal(returns, block_bars, 20, 7)]


@pytest.mark.parametrize("block_bars", [1, 3, 100])
@pytest.mark.parametrize(
    ("change", "bars", "final", "drawdown", "loss"),
    [
        pytest.param(0.0, 8, CASH, 0.0, 0.0, id="nothing happens"),
        pytest.param(0.5, 2, CASH * 2.25, 0.0, 0.0, id="gains alone"),
        pytest.param(-0.5, 3, CASH / 8, -0.875, 1.0, id="losses alone; the maximum starts at the cash"),
        pytest.param(-1.0, 2, 0.0, -1.0, 1.0, id="everything is lost"),
        pytest.param(0.5, 1, CASH * 1.5, 0.0, 0.0, id="one bar"),
    ],
)
def test_equal_returns_leave_nothing_to_chance(
    block_bars: int, change: float, bars: int, final: float, drawdown: float, loss: float
) -> None:
    found = block_bootstrap(np.full(bars, change), CASH, block_bars, runs=5)
    assert rows_of(found) == [(final, drawdown)] * 5
    assert found.probability_of_loss == loss


def test_one_endless_block_turns_the_series_round() -> None:
    returns = floats(-0.5, -0.5, -0.25, -0.25, 1.0)
    turned = {compounded(np.roll(returns, -start)) for start in range(5)}
    assert len(turned) == 4
    assert set(rows_of(block_bootstrap(returns, CASH, 10**9, runs=200))) == turned


def test_blocks_keep_dependence() -> None:
    # 500 gains, then 500 losses. The sum of 1,000 bars drawn one by one has a deviation of 0.01 * sqrt(1000); in blocks
    # of geometric length with mean b it is about sqrt(2b) times that.
    returns = np.repeat([0.01, -0.01], 500)
    spread = [
        np.log(block_bootstrap(returns, CASH, block_bars, runs=400, seed=1).final_equity).std()
        for block_bars in (1, 10, 50)
    ]
    assert spread[0] == pytest.approx(0.01 * math.sqrt(1000), rel=0.15)
    assert spread[1] / spread[0] == pytest.approx(math.sqrt(19), rel=0.2)
    assert spread[2] / spread[0] == pytest.approx(math.sqrt(99), rel=0.25)


def test_trades_are_drawn_with_replacement_and_compounded() -> None:
    returns = floats(0.5, -0.25, 0.0)
    found = bootstrap_trades(returns, CASH, runs=20_000, seed=3)
    growth, counts = np.unique(found.final_equity / CASH, return_counts=True)
    # 27 equally likely draws of three of 1.5, 0.75 and 1.
    expected = {
        1.5**i * 0.75**j: math.factorial(3) / (math.factorial(i) * math.factorial(j) * math.factorial(3 - i - j)) / 27
        for i in range(4)
        for j in range(4 - i)
    }
    assert growth.tolist() == sorted(expected)
    assert counts / 20_000 == pytest.approx([expected[value] for value in growth], abs=0.01)
    assert found.probability_of_loss == pytest.approx((1 + 3 + 3 + 3) / 27, abs=0.015)  # 1.5 * 0.75 * 0.75 loses too


def test_open_trades_are_left_out() -> None:
    with_open = bootstrap_trades(floats(0.5, -0.25, math.nan), CASH, runs=50)
    assert rows_of(with_open) == rows_of(bootstrap_trades(floats(0.5, -0.25), CASH, runs=50))
    assert np.isfinite(with_open.final_equity).all()


@pytest.mark.parametrize("nothing", [floats(), floats(math.nan)])
def test_without_trades_everything_is_undefined(nothing: Any) -> None:
    found = bootstrap_trades(nothing, CASH, runs=3)
    assert np.isnan(found.final_equity).tolist() == [True] * 3
    assert math.isnan(found.probability_of_loss)
    assert found.bands()[["final_equity", "max_drawdown"]].isna().all(axis=None)


def test_bands() -> None:
    found = MonteCarlo(CASH, floats(5, 1, 2, 4, 3), floats(-0.1, -0.5, -0.4, -0.2, -0.3))
    bands = found.bands((0, 0.25, 0.5, 0.625, 1))
    assert bands["level"].tolist() == [0, 0.25, 0.5, 0.625, 1]
    assert bands["final_equity"].tolist() == pytest.approx([1, 2, 3, 3.5, 5])
    assert bands["max_drawdown"].tolist() == pytest.approx([-0.5, -0.4, -0.3, -0.25, -0.1])
    assert found.bands()["level"].tolist() == list(LEVELS)


@given(
    st.lists(st.sampled_from([-0.5, -0.25, 0.0, 0.25, 1.0]), min_size=1, max_size=30),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_runs_stay_within_what_is_possible(returns: list[float], block_bars: int, seed: int) -> None:
    found = block_bootstrap(floats(*returns), CASH, block_bars, runs=10, seed=seed)
    n = len(returns)
    assert (found.final_equity >= CASH * (1 + min(returns)) ** n).all()
    assert (found.final_equity <= CASH * (1 + max(returns)) ** n).all()
    assert (found.max_drawdown <= np.minimum(found.final_equity / CASH - 1, 0)).all()
    assert (found.max_drawdown >= -1).all()
    assert rows_of(found) == rows_of(block_bootstrap(floats(*returns), CASH, block_bars, runs=10, seed=seed))


def test_the_seed_decides_and_more_runs_keep_the_first_ones() -> None:
    returns = np.random.default_rng(5).normal(0, 0.05, 300)
    first = rows_of(block_bootstrap(returns, CASH, 10, runs=5, seed=1))
    assert rows_of(block_bootstrap(returns, CASH, 10, runs=9, seed=1))[:5] == first
    assert rows_of(block_bootstrap(returns, CASH, 10, runs=5, seed=2)) != first


def test_the_same_runs_on_every_machine() -> None:
    # Exact: powers of two. Another stream of random numbers in a new numpy would show here.
    returns = floats(1.0, -0.5, 0.0, 0.0, 1.0, -0.5, -0.5)
    found = block_bootstrap(returns, CASH, 2, runs=8, seed=2024)
    assert np.log2(found.final_equity / CASH).tolist() == [-4, -1, 0, 0, 2, 2, 2, 1]
    assert found.max_drawdown.tolist() == [-0.9375, -0.75, -0.75, -0.5, -0.5, -0.5, 0, -0.5]


def test_memory_is_that_of_one_run() -> None:
    returns = np.zeros(20_000)
    block_bootstrap(returns, CASH, 10, runs=1)
    tracemalloc.start()
    try:
        block_bootstrap(returns, CASH, 10, runs=100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * returns.nbytes / 10


@pytest.mark.parametrize(
    ("bars", "runs", "looks"),
    [
        pytest.param(1_000_000, 4, 2, id="a look every two runs"),
        pytest.param(1000, 4000, 2, id="short runs: few looks"),
    ],
)
def test_asks_now_and_then_whether_to_stop(bars: int, runs: int, looks: int) -> None:
    asked = []
    block_bootstrap(np.zeros(bars), CASH, 100, runs=runs, cancelled=lambda: bool(asked.append(1)))
    assert len(asked) == looks


def test_cancel() -> None:
    answers = iter([False, True])
    with pytest.raises(Cancelled, match="cancelled after 2 of 100 runs"):
        block_bootstrap(np.zeros(1_000_000), CASH, 100, runs=100, cancelled=lambda: next(answers))
    with pytest.raises(Cancelled, match="cancelled after 0 of 100 runs"):
        bootstrap_trades(np.zeros(3), CASH, runs=100, cancelled=lambda: True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"block_bars": 0}, "block_bars = 0 is not accepted; expected a whole number from 1 on"),
        ({"block_bars": 2.5}, "block_bars = 2.5"),
        ({"block_bars": True}, "block_bars = True"),
        ({"runs": 0}, "runs = 0"),
        ({"seed": -1}, "seed = -1 is not accepted; expected a whole number from 0 on"),
    ],
)
def test_out_of_range(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        block_bootstrap(np.zeros(3), CASH, **({"block_bars": 1} | arguments))


@pytest.mark.parametrize("levels", [(-0.1,), (0.5, 1.1), (math.nan,)])
def test_levels_out_of_range(levels: tuple[float, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"expected fractions from 0 to 1"):
        MonteCarlo(CASH, floats(1), floats(0)).bands(levels)


@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("sizing", [None, Sizing(fraction=0.25), Sizing(amount=2e6), Sizing(risk=0.01)])
def test_returns_of_the_account_compound_to_its_end(sizing: Sizing | None, fill: str) -> None:
    params = {"body_pct": 0.01, "vol_multiplier": 1.0, "hold_period_bars": 2}
    request = BacktestRequest("volume_long_candle", params, sizing=sizing, fill=fill)
    account = run_backtest(random_walk(400, 3), request).portfolio
    returns = account_returns(account.entry_bar, account.pnl, account.equity, request.initial_cash)
    assert len(returns) > 10
    assert np.prod(1 + returns) * request.initial_cash == pytest.approx(account.equity[-1])
