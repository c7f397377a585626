"""What a sweep tries: grids and ranges exact in decimals, seeded samples, what is refused, and what is left out."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines.backtest import BacktestRequest, Between, Costs, Exits, Sampling, run_sweep
from coin_hts_pipelines.backtest.combinations import grid_combinations, sampled_combinations
from coin_hts_pipelines.backtest.sampling import MOST_COMBINATIONS, draw_rows
from coin_hts_pipelines.errors import Cancelled, InvalidRequest
from coin_hts_pipelines_tests.candle_maker import random_walk

LONG, ZONE, SMA = "volume_long_candle", "volume_zone_breakout", "sma_cross"


def rows(space: dict[str, Any], sampling: Sampling | None = None, strategy: str = LONG) -> list[tuple[Any, ...]]:
    drawn, _ = draw_rows(BacktestRequest(strategy), space, sampling or Sampling())
    return [tuple(row.values()) for row in drawn]


# ---- ranges and grids

RANGES = [
    ("vol_multiplier", Between(1.0, 3.0, 0.25), [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0]),
    ("body_pct", Between(0.01, 0.07, 0.01), [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]),
    ("body_pct", Between(0.01, 0.055, 0.02), [0.01, 0.03, 0.05]),
    ("body_pct", Between(0.02, 0.02), None),
    ("body_pct", Between(0.02, 0.02, 5), [0.02]),
    ("hold_period_bars", Between(3, 6), [3, 4, 5, 6]),
    ("hold_period_bars", Between(3.0, 10.0, 3.0), [3, 6, 9]),
    ("vol_ma_window", Between(np.int64(7), np.int64(7)), [7]),
    ("stop_loss", Between(0.1, 0.3, 0.1), [0.1, 0.2, 0.3]),
    ("trailing_stop", [None, 0.05], [None, 0.05]),
    ("vol_ma_window", [20, 20.0, 10], [20, 10]),
]


@pytest.mark.parametrize(("name", "values", "expected"), RANGES)
def test_values_of_a_range_are_those_one_would_type(name: str, values: Any, expected: list[Any] | None) -> None:
    if expected is None:
        with pytest.raises(InvalidRequest, match=f"a grid needs a step for the range of {name}"):
            rows({name: values})
        return
    found = [row[0] for row in rows({name: values})]
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_the_last_name_varies_fastest_and_equal_rows_count_once() -> None:
    space = {"vol_ma_window": [5, 10, 5.0], "stop_loss": [None, 0.1, None]}
    found, draw = draw_rows(BacktestRequest(LONG), space, Sampling())
    assert found == [
        {"vol_ma_window": 5, "stop_loss": None},
        {"vol_ma_window": 5, "stop_loss": 0.1},
        {"vol_ma_window": 10, "stop_loss": None},
        {"vol_ma_window": 10, "stop_loss": 0.1},
    ]
    assert (draw.rows, draw.duplicates, draw.refused) == (9, 5, 0)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "expected at least one parameter"),
        ({"vol_ma_window": []}, "expected at least one parameter"),
        ({"vol_ma_window": "57"}, "expected at least one parameter"),
        ({"nope": [1]}, "'nope' is unknown; accepted: vol_ma_window.*stop_loss, take_profit, trailing_stop"),
        ({"vol_ma_window": [5, 0]}, "vol_ma_window = 0 is not accepted; expected a whole number from 1 to 500"),
        ({"vol_ma_window": Between(0, 5)}, "vol_ma_window = 0 is not accepted"),
        ({"vol_ma_window": Between(5, 501)}, "vol_ma_window = 501 is not accepted"),
        ({"vol_ma_window": Between(5.5, 10)}, "vol_ma_window = 5.5 is not accepted"),
        ({"vol_ma_window": Between(5, 10, 1.5)}, "step = 1.5 of vol_ma_window is not accepted; expected a whole"),
        ({"body_pct": Between(0.01, 0.02, 1e-15)}, "step = 1e-15 of body_pct is too small"),
        ({"stop_loss": [0.1, 1.0]}, "stop_loss = 1.0 is not accepted; expected 0 < stop_loss < 1"),
        ({"stop_loss": Between(0.0001, 0.1, 0.05)}, "expected more than slippage_rate"),
        ({"take_profit": Between(0, 1, 0.5)}, "take_profit = 0 is not accepted"),
        ({"vol_ma_window": Between(1, 500), "hold_period_bars": Between(1, 1000), "vol_multiplier": [1, 2, 3]},
         r"a grid of 500 x 1,000 x 3 = 1,500,000 combinations .* at most 1,000,000"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be(space: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        rows(space)


def test_a_range_of_flags_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="include_wicks"):
        rows({"include_wicks": Between(0, 1)}, strategy=ZONE)


def test_an_endless_grid_is_refused_before_memory_is_used() -> None:
    space = {name: Between(1, 10, 0.00001) for name in ("vol_multiplier",)}
    space |= {"body_pct": Between(0.001, 0.1, 0.0000001), "hold_period_bars": Between(1, 1000)}
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match=r"900,001 x 990,001 x 1,000 = 891,001,890,001,000 combinations"):
        rows(space)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize(
    "arguments",
    [(2, 1), (math.nan, 1), (0, math.inf), (True, 2), ("1", 2), (1, 2, 0), (1, 2, -0.5), (1, 2, math.nan)],
)
def test_a_range_that_cannot_be(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidRequest):
        Between(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sobol", 5), "sampling 'sobol' is unknown; accepted: grid, random, lhs"),
        (("grid", 5), "trials = 5 belongs to random and lhs"),
        (("random",), "trials = None is not accepted"),
        (("lhs", 0), "trials = 0 is not accepted; expected a whole number from 1 to 1,000,000"),
        (("lhs", MOST_COMBINATIONS + 1), "trials = 1000001 is not accepted"),
        (("random", 2.0), "trials = 2.0"),
        (("random", True), "trials = True"),
        (("random", 5, -1), "seed = -1"),
        (("random", 5, 1.5), "seed = 1.5"),
    ],
)
def test_a_sampling_that_cannot_be(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Sampling(*arguments)


# ---- samples

SPACE: dict[str, Any] = {
    "vol_multiplier": Between(1.0, 3.0),
    "body_pct": Between(0.01, 0.05, 0.01),
    "hold_period_bars": Between(1, 9),
    "stop_loss": [None, 0.02],
}
# Written down once: the same on every machine.
PINNED = {
    "random": [(2.02364, 0.02, 5, None), (2.90093, 0.03, 1, 0.02), (1.28832, 0.05, 7, None), (2.8973, 0.03, 5, None)],
    "lhs": [(1.25591, 0.04, 3, 0.02), (2.97523, 0.01, 6, None), (1.57208, 0.05, 1, 0.02), (2.47432, 0.02, 8, None)],
}


@pytest.mark.parametrize("method", ["random", "lhs"])
def test_a_sample_is_the_same_on_every_machine(method: str) -> None:
    assert rows(SPACE, Sampling(method, 4, 1)) == PINNED[method]
    assert rows(SPACE, Sampling(method, 4, 1)) != rows(SPACE, Sampling(method, 4, 2))


@given(method=st.sampled_from(["random", "lhs"]), trials=st.integers(1, 60), seed=st.integers(0, 2**63 - 1))
def test_every_value_is_in_range_and_of_its_type(method: str, trials: int, seed: int) -> None:
    found, draw = draw_rows(BacktestRequest(LONG), SPACE, Sampling(method, trials, seed))
    assert draw.rows == trials
    assert len(found) + draw.duplicates == trials
    assert len({tuple(row.values()) for row in found}) == len(found)
    for row in found:
        assert list(row) == list(SPACE)
        assert 1.0 <= row["vol_multiplier"] <= 3.0
        assert float(f"{row['vol_multiplier']:.6g}") == row["vol_multiplier"]
        assert row["body_pct"] in (0.01, 0.02, 0.03, 0.04, 0.05)
        assert type(row["hold_period_bars"]) is int
        assert 1 <= row["hold_period_bars"] <= 9
        assert row["stop_loss"] in (None, 0.02)


@given(trials=st.integers(1, 500), seed=st.integers(0, 10_000))
def test_a_hypercube_has_one_point_in_every_slice_of_every_axis(trials: int, seed: int) -> None:
    space = {"hold_period_bars": Between(1, trials), "vol_multiplier": Between(1.0, 10.0), "vol_ma_window": [5, 10]}
    found = rows(space, Sampling("lhs", trials, seed))
    assert sorted(row[0] for row in found) == list(range(1, trials + 1))
    # Six digits may carry a value over the edge of its slice, by as much at most.
    shares = np.sort([(row[1] - 1) / 9 for row in found]) * trials
    assert np.all(np.abs(shares - np.arange(trials) - 0.5) <= 0.5 + 1e-5 * trials)
    assert abs(sum(row[2] == 5 for row in found) - trials / 2) <= 0.5


def test_a_hypercube_orders_its_axes_independently() -> None:
    space = {"hold_period_bars": Between(1, 500), "vol_ma_window": Between(1, 500)}
    first, second = np.array(rows(space, Sampling("lhs", 500, 3))).T
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15


def test_what_rounding_makes_equal_is_counted() -> None:
    _, draw = draw_rows(BacktestRequest(LONG), {"hold_period_bars": Between(1, 3)}, Sampling("random", 100, 0))
    assert (draw.rows, draw.duplicates) == (100, 97)


# ---- combinations


def test_combinations_a_strategy_refuses_are_left_out_and_counted() -> None:
    request = BacktestRequest(SMA)
    space = {"fast_window": [5, 20, 50], "slow_window": [20, 50, 100]}
    combinations, draw = sampled_combinations(request, space)
    found = [tuple(one.named.values()) for one in combinations]
    assert found == [(5, 20), (5, 50), (5, 100), (20, 50), (20, 100), (50, 100)]
    assert (draw.rows, draw.duplicates, draw.refused) == (9, 0, 3)
    sweep = run_sweep(random_walk(300, 1), request, space)
    assert sweep.draw == draw
    assert sweep.table[["fast_window", "slow_window"]].to_numpy().tolist() == [list(row) for row in found]
    with pytest.raises(InvalidRequest, match="fast_window = 20 is not accepted; expected less than slow_window"):
        grid_combinations(request, space)
    with pytest.raises(
        InvalidRequest, match="none of the 2 combinations is accepted; the last: sma_cross: fast_window"
    ):
        run_sweep(random_walk(300, 1), request, {"fast_window": [60, 70]})


def test_a_value_out_of_range_is_an_error_even_where_others_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="fast_window = 0 is not accepted"):
        sampled_combinations(BacktestRequest(SMA), {"fast_window": [60, 0], "slow_window": [50]})


def test_cancel_before_the_first_bar() -> None:
    with pytest.raises(Cancelled):
        sampled_combinations(BacktestRequest(LONG), {"hold_period_bars": [1, 2]}, None, lambda: True)


def test_a_sampled_sweep_is_the_grid_of_its_rows() -> None:
    candles, request = random_walk(400, 2), BacktestRequest(LONG, exits=Exits(0.1), costs=Costs(0.0, 0.0))
    sampled = run_sweep(candles, request, SPACE, sampling=Sampling("lhs", 12, 5))
    assert len(sampled.table) == 12
    for row, combination in enumerate(sampled.combinations):
        alone = run_sweep(candles, request, {name: [value] for name, value in combination.named.items()})
        assert alone.table.to_numpy(float)[0].tolist() == pytest.approx(
            sampled.table.to_numpy(float)[row].tolist(), rel=0, nan_ok=True
        )


# ---- identity


def test_digests_know_what_was_tried_and_not_how_it_was_said() -> None:
    candles, request = random_walk(200, 3), BacktestRequest(LONG)
    typed = run_sweep(candles, request, {"vol_multiplier": [1.0, 1.5, 2.0]})
    ranged = run_sweep(candles, request, {"vol_multiplier": Between(1, 2, 0.5)})
    assert (typed.inputs_digest, typed.table_digest) == (ranged.inputs_digest, ranged.table_digest)
    others = [
        run_sweep(candles, request, {"vol_multiplier": [1.0, 1.5]}),
        run_sweep(candles, request, {"vol_multiplier": [1.0, 1.5, 2.0], "stop_loss": [0.1]}),
        run_sweep(candles, request, {"vol_multiplier": [1.0, 2.0, 1.5]}),
        run_sweep(candles, BacktestRequest(LONG, fill="next_open"), {"vol_multiplier": [1.0, 1.5, 2.0]}),
        run_sweep(candles, BacktestRequest(LONG, exits=Exits(signal_exit=False)), {"vol_multiplier": [1.0, 1.5, 2.0]}),
        run_sweep(candles.iloc[:-1], request, {"vol_multiplier": [1.0, 1.5, 2.0]}),
    ]
    assert len({typed.inputs_digest, *(one.inputs_digest for one in others)}) == 7


def test_the_named_exit_decides_and_not_the_request() -> None:
    candles, grid = random_walk(200, 3), {"stop_loss": [0.1, None]}
    digests = {run_sweep(candles, BacktestRequest(LONG, exits=Exits(stop)), grid).inputs_digest for stop in (None, 0.3)}
    assert len(digests) == 1
