"""Default grids: modest, around the middle, and within what a strategy accepts."""

from __future__ import annotations

import math
from typing import Any

import pytest

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.backtest.search_space import MOST, search_space
from coin_hts_pipelines.backtest.sweep import sampled_combinations
from coin_hts_pipelines.strategies import Param, Strategy, get_strategy, list_strategies
from coin_hts_pipelines.strategies.base import HOLD_PERIOD


class Made(Strategy):
    """Nothing but parameters."""

    name = "made"

    def __init__(self, *params: Param) -> None:
        self.params = params  # type: ignore[misc]

    def compute(self, candles: Any, params: Any, start: int, stop: int) -> Any:
        raise NotImplementedError


WINDOW = Param("window", 20, 2, 500)
SHARE = Param("share", 0.2, 0.01, 0.99)


@pytest.mark.parametrize(
    ("params", "given", "expected"),
    [
        ((WINDOW,), {}, {"window": [10, 20, 40]}),
        ((WINDOW,), {"window": 300}, {"window": [150, 300, 500]}),
        ((WINDOW,), {"window": 3}, {"window": [2, 3, 6]}),
        ((WINDOW,), {"window": 2}, {"window": [2, 4]}),
        ((Param("window", 7, 7, 7),), {}, {}),
        ((SHARE,), {}, {"share": [0.1, 0.2, 0.4]}),
        ((SHARE,), {"share": 0.6}, {"share": [0.3, 0.6, 0.99]}),
        ((Param("buffer", 0.0, 0.0, 0.2),), {}, {}),
        ((Param("wicks", True), WINDOW), {}, {"window": [10, 20, 40]}),
        ((WINDOW, SHARE), {}, {"window": [10, 20, 40], "share": [0.1, 0.2, 0.4]}),
        # A third of three values would be 108 combinations; one of two would be 72.
        ((WINDOW, SHARE, Param("bins", 8, 2, 99)), {}, {"window": [10, 20, 40], "share": [0.1, 0.2, 0.4]}),
    ],
)
def test_half_once_and_twice(params: tuple[Param, ...], given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = search_space(Made(*params), given)
    assert found == {**expected, "hold_period_bars": [1, 3, 5, 10]}
    assert list(found)[-1] == "hold_period_bars"


@pytest.mark.parametrize(
    ("hold", "given", "expected"),
    [
        (HOLD_PERIOD, {}, [1, 3, 5, 10]),
        (HOLD_PERIOD, {"hold_period_bars": 50}, [1, 3, 5, 10, 50]),
        (Param("hold_period_bars", 4, 2, 6), {}, [3, 4, 5]),
        (Param("hold_period_bars", 30, 1, 100_000), {}, [1, 3, 5, 10, 30]),
    ],
)
def test_holding_periods(hold: Param, given: dict[str, Any], expected: list[int]) -> None:
    assert search_space(Made(hold), given) == {"hold_period_bars": expected}


def middles() -> list[Any]:
    corners = []
    for name in list_strategies():
        params = get_strategy(name).all_params()
        for end in ("default", "low", "high"):
            middle = {one.name: getattr(one, end) for one in params if not isinstance(one.default, bool)}
            corners.append(pytest.param(name, middle, id=f"{name} {end}"))
    return corners


@pytest.mark.parametrize(("name", "middle"), middles())
def test_every_strategy_has_a_modest_grid_it_accepts(name: str, middle: dict[str, Any]) -> None:
    strategy = get_strategy(name)
    try:
        full = strategy.full_params(middle)
    except InvalidRequest:
        full = strategy.full_params()  # low of one and low of another need not go together
    grid = search_space(strategy, full)
    size = math.prod(map(len, grid.values()))
    assert 1 < size <= MOST
    combinations, draw = sampled_combinations(BacktestRequest(name, full), grid)
    assert full in [one.params for one in combinations], "what is asked about is one of them"
    assert len(combinations) + draw.refused == size
    assert draw.duplicates == 0
    assert len({one.hold for one in combinations}) >= 4


def test_crossed_averages_are_left_out() -> None:
    strategy = get_strategy("sma_cross")
    request = BacktestRequest("sma_cross", {"fast_window": 20, "slow_window": 30})
    combinations, draw = sampled_combinations(request, search_space(strategy, request.params))
    assert draw.refused > 0
    assert all(one.params["fast_window"] < one.params["slow_window"] for one in combinations)


def test_a_middle_that_is_not_accepted() -> None:
    with pytest.raises(InvalidRequest, match="volume_window = 1 is not accepted"):
        search_space(get_strategy("volume_zone_breakout"), {"volume_window": 1})
