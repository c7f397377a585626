"""Parameters and the slices a strategy is worked in."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from coin_hts_pipelines import Cancelled, InvalidCandles, InvalidRequest, PermanentError
from coin_hts_pipelines.market.candles import CandleArrays, candle_arrays
from coin_hts_pipelines.strategies import Param, Strategy, get_strategy, list_strategies
from coin_hts_pipelines.strategies.base import HOLD_PERIOD, BoolArray, FloatArray
from coin_hts_pipelines_tests.candle_maker import random_walk

WHOLE = Param("window", 20, 1, 500)
NUMBER = Param("share", 0.2, 0.01, 0.99)
SWITCH = Param("wicks", True)


@pytest.mark.parametrize(
    ("param", "value", "taken"),
    [
        (WHOLE, 20, 20),
        (WHOLE, 20.0, 20),
        (WHOLE, 1, 1),
        (WHOLE, 500, 500),
        (WHOLE, np.int32(7), 7),
        (WHOLE, np.float64(7.0), 7),
        (NUMBER, 0.5, 0.5),
        (NUMBER, 0.01, 0.01),
        (NUMBER, 0.99, 0.99),
        (NUMBER, np.float32(0.5), 0.5),
        (Param("factor", 1.5, 1, 10), 2, 2.0),
        (SWITCH, False, False),
        (SWITCH, np.True_, True),
    ],
)
def test_what_a_parameter_takes(param: Param, value: object, taken: object) -> None:
    answer = param.check("any", value)
    assert answer == taken
    assert type(answer) is type(param.default)


@pytest.mark.parametrize(
    ("param", "value"),
    [
        (WHOLE, 1.5),
        (WHOLE, True),
        (WHOLE, np.False_),
        (WHOLE, "20"),
        (WHOLE, None),
        (WHOLE, float("nan")),
        (WHOLE, float("inf")),
        (WHOLE, np.float64("nan")),
        (WHOLE, 0),
        (WHOLE, 501),
        (WHOLE, np.int64(501)),
        (WHOLE, 20 + 0j),
        (WHOLE, [20]),
        (NUMBER, 0.0099),
        (NUMBER, 1.0),
        (NUMBER, "0.5"),
        (NUMBER, True),
        (NUMBER, float("nan")),
        (SWITCH, 1),
        (SWITCH, "true"),
        (SWITCH, None),
    ],
)
def test_what_a_parameter_refuses(param: Param, value: object) -> None:
    with pytest.raises(InvalidRequest) as raised:
        param.check("any", value)
    assert str(raised.value) == (f"any: parameter {param.name} = {value!r} is not accepted; expected {param.accepted}")


@pytest.mark.parametrize(
    ("param", "accepted"),
    [
        (WHOLE, "a whole number from 1 to 500"),
        (NUMBER, "a number from 0.01 to 0.99"),
        (SWITCH, "true or false"),
    ],
)
def test_what_is_accepted_is_said(param: Param, accepted: str) -> None:
    assert param.accepted == accepted


@pytest.mark.parametrize("name", list_strategies())
def test_defaults_lie_in_their_ranges_and_every_strategy_holds(name: str) -> None:
    strategy = get_strategy(name)
    full = strategy.full_params()
    assert strategy.full_params(full) == full
    assert list(full)[-1] == "hold_period_bars"
    assert all(param.doc for param in strategy.all_params())


class Counting(Strategy):
    """Buys every bar; one bar costs a whole slice."""

    name = "counting"
    params = (HOLD_PERIOD,)

    def __init__(self) -> None:
        self.slices: list[tuple[int, int]] = []

    def nanoseconds_per_bar(self, params: Mapping[str, Any]) -> float:
        return 50e6

    def compute(
        self, candles: CandleArrays, params: Mapping[str, Any], start: int, stop: int
    ) -> tuple[BoolArray, FloatArray]:
        self.slices.append((start, stop))
        return np.ones(stop - start, dtype=bool), np.arange(start, stop, dtype=float)


def test_signals_are_worked_in_slices_with_progress() -> None:
    strategy, shares = Counting(), []
    signals = strategy.signals_of(candle_arrays(random_walk(10, 1)), strategy.full_params(), shares.append)
    assert strategy.slices == [(0, 4), (4, 8), (8, 10)]
    assert shares == [0.4, 0.8, 1.0]
    assert signals.confidence.tolist() == list(range(10))


def test_a_cancel_acts_between_two_slices() -> None:
    strategy = Counting()
    with pytest.raises(Cancelled, match="cancelled at bar 4 of 10"):
        strategy.signals_of(
            candle_arrays(random_walk(10, 1)), strategy.full_params(), None, lambda: bool(strategy.slices)
        )
    assert strategy.slices == [(0, 4)]


class Careless(Counting):
    """Gives whatever it is told to."""

    def __init__(self, shapes: list[int], sells: bool) -> None:
        self.shapes, self.sells = shapes, sells  # type: ignore[misc]

    def compute(self, candles: CandleArrays, params: Mapping[str, Any], start: int, stop: int) -> Any:
        return tuple(np.ones(length, dtype=bool) for length in self.shapes)


@pytest.mark.parametrize(
    ("sells", "shapes", "message"),
    [
        (True, [4, 4], r"shapes \[\(4,\), \(4,\)\] for the bars 0 to 3; expected 3 of 4 elements each"),
        (False, [4, 4, 4], "expected 2 of 4 elements each"),
        (False, [10, 10], r"shapes \[\(10,\), \(10,\)\]"),
        (False, [1, 1], r"shapes \[\(1,\), \(1,\)\]"),
        (True, [4, 4, 3], "expected 3 of 4"),
    ],
)
def test_arrays_that_are_not_the_bars_are_refused(sells: bool, shapes: list[int], message: str) -> None:
    strategy = Careless(shapes, sells)
    with pytest.raises(PermanentError, match=f"^counting: compute gave arrays of .*{message}"):
        strategy.signals_of(candle_arrays(random_walk(10, 1)), strategy.full_params())


class Pair(Counting):
    """Two parameters that must be in order."""

    name = "pair"
    params = (Param("low", 1, 1, 9, "the lower"), Param("high", 5, 1, 9, "the higher"))

    def check(self, params: Mapping[str, Any]) -> None:
        if params["low"] >= params["high"]:
            raise InvalidRequest(f"low = {params['low']} is not below high = {params['high']}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low": 5}, "low = 5 is not below high = 5"),
        ({"low": 7.0, "high": 3}, "low = 7 is not below high = 3"),
        ({"low": 10}, "pair: parameter low = 10 is not accepted; expected a whole number from 1 to 9"),
    ],
)
def test_parameters_that_do_not_go_together(given: dict[str, object], message: str) -> None:
    assert Pair().full_params({"low": 4})["high"] == 5
    with pytest.raises(InvalidRequest) as raised:
        Pair().full_params(given)
    assert str(raised.value) == message


def test_signals_of_a_frame_that_breaks_a_rule() -> None:
    candles = random_walk(10, 1)
    candles.loc[3, "close"] = float("nan")
    with pytest.raises(InvalidCandles, match="close is not a finite number: 1 row"):
        Counting().signals(candles)
