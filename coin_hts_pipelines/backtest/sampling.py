"""What a sweep tries: every point of a grid, or points drawn from a space at random or by a Latin hypercube.

Belongs here: drawing values that are each in range. Not here: which of them go together (`sweep`). Source of the
hypercube: McKay, Beckman and Conover, A Comparison of Three Methods for Selecting Values of Input Variables,
Technometrics 21 (1979).
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.strategies.base import ParamValue
from coin_hts_pipelines.strategies.registry import get_strategy

FloatArray = npt.NDArray[np.float64]

METHODS = ("grid", "random", "lhs")
MOST_COMBINATIONS = 1_000_000

# Exit rules that a space may name beside the strategy's parameters; None switches one off.
EXIT_NAMES = ("stop_loss", "take_profit", "trailing_stop")

# Digits of a number drawn from a continuum: it can be typed, and says no more than a parameter can mean.
_DIGITS = 6
_MOST_STEPS = 10**12


@dataclass(frozen=True)
class Between:
    """Values from `low` to `high`, both included: `low`, `low + step`, ..., exact in decimals.

    Without a step every number, of an integer parameter every whole one.
    """

    low: float
    high: float
    step: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high), ("step", self.step)):
            if value is None and name == "step":
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(float(value)):
                raise InvalidRequest(f"{name} = {value!r} of a range is not accepted; expected a number")
        if self.low > self.high:
            raise InvalidRequest(f"range from {self.low} to {self.high} is empty; expected low <= high")
        if self.step is not None and self.step <= 0:
            raise InvalidRequest(f"step = {self.step} of a range is not accepted; expected a number above 0")


Values = Sequence[Any] | Between
Space = Mapping[str, Values]
Row = dict[str, ParamValue | None]


@dataclass(frozen=True)
class Sampling:
    """How combinations are taken from a space: all of them (`grid`), or so many `trials` drawn with a `seed`."""

    method: str = "grid"
    trials: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidRequest(f"sampling {self.method!r} is unknown; accepted: {', '.join(METHODS)}")
        if self.method == "grid":
            if self.trials is not None:
                raise InvalidRequest(f"trials = {self.trials!r} belongs to random and lhs; a grid tries everything")
        elif not _whole(self.trials) or not 1 <= (self.trials or 0) <= MOST_COMBINATIONS:
            raise InvalidRequest(
                f"trials = {self.trials!r} is not accepted; expected a whole number from 1 to {MOST_COMBINATIONS:,}"
            )
        if self.trials is not None:
            object.__setattr__(self, "trials", int(self.trials))
        if not _whole(self.seed) or not 0 <= self.seed < 2**63:
            raise InvalidRequest(f"seed = {self.seed!r} is not accepted; expected a whole number from 0 to 2^63 - 1")
        object.__setattr__(self, "seed", int(self.seed))


@dataclass(frozen=True)
class Draw:
    """Where the combinations of a sweep come from, and what of the rows drawn is not among them.

    `duplicates` are rows that rounding made equal to an earlier one, `refused` those whose values, each in range, the
    strategy does not accept together.
    """

    space: Space
    sampling: Sampling
    rows: int
    duplicates: int
    refused: int = 0


@dataclass(frozen=True)
class _Axis:
    """Values of one name: `value` of the places 0..count-1, or, without a count, of a share 0..1 of a continuum."""

    count: int | None
    value: Callable[[Any], ParamValue | None]

    def column(self, shares: FloatArray) -> list[ParamValue | None]:
        """Values at shares 0..1 of the axis."""
        if self.count is None:
            return [self.value(share) for share in shares.tolist()]
        # (rank + random) / trials may round up to 1.
        places = np.minimum((shares * self.count).astype(np.int64), self.count - 1)
        distinct, which = np.unique(places, return_inverse=True)
        values = [self.value(place) for place in distinct.tolist()]
        return [values[k] for k in which.tolist()]


def _whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _fraction(value: float) -> Fraction:
    return Fraction(repr(float(value)))


def draw_rows(request: BacktestRequest, space: Space, sampling: Sampling) -> tuple[list[Row], Draw]:
    """Rows of values, each value in its parameter's type and range, no row twice.

    Raises
    ------
    InvalidRequest
        For an empty space, an unknown name, a value or range out of range, a grid without an end or of more than
        `MOST_COMBINATIONS`; before any row is made.
    """
    if not space or any(not isinstance(v, Between) and (isinstance(v, str) or len(v) == 0) for v in space.values()):
        raise InvalidRequest(f"grid {dict(space)!r} is not accepted; expected at least one parameter with values each")
    axes = {name: _axis(request, name, values) for name, values in space.items()}
    drawn = _grid(axes) if sampling.method == "grid" else _sample(axes, sampling)
    rows: dict[tuple[ParamValue | None, ...], None] = {}
    count = 0
    for count, values in enumerate(drawn, 1):  # noqa: B007 - the last is the number of rows
        rows[values] = None
    return [dict(zip(axes, row, strict=True)) for row in rows], Draw(space, sampling, count, count - len(rows))


def _grid(axes: Mapping[str, _Axis]) -> Iterator[tuple[ParamValue | None, ...]]:
    counts = []
    for name, axis in axes.items():
        if axis.count is None:
            raise InvalidRequest(f"a grid needs a step for the range of {name}; or sample it by random or lhs")
        counts.append(axis.count)
    size = math.prod(counts)
    if size > MOST_COMBINATIONS:
        sizes = " x ".join(f"{count:,}" for count in counts)
        raise InvalidRequest(
            f"a grid of {sizes} = {size:,} combinations is not accepted; expected at most {MOST_COMBINATIONS:,}: "
            "take wider steps, or sample it by random or lhs"
        )
    return itertools.product(*([axis.value(place) for place in range(axis.count or 0)] for axis in axes.values()))


def _sample(axes: Mapping[str, _Axis], sampling: Sampling) -> Iterator[tuple[ParamValue | None, ...]]:
    """Draw rows from one stream of uniform numbers, which is the same on every machine: the PCG64 generator's own."""
    trials = sampling.trials or 0
    stream = np.random.Generator(np.random.PCG64(sampling.seed))
    columns = []
    for axis in axes.values():
        shares = stream.random(trials)
        if sampling.method == "lhs":
            # One point in each of as many equal slices of every axis as there are trials, in an order of its own.
            shares = (np.argsort(stream.random(trials), kind="stable") + shares) / trials
        columns.append(axis.column(shares))
    return zip(*columns, strict=True)


def _axis(request: BacktestRequest, name: str, values: Values) -> _Axis:
    strategy = get_strategy(request.strategy)
    params = {param.name: param for param in strategy.all_params()}
    if name not in params and name not in EXIT_NAMES:
        raise InvalidRequest(
            f"{strategy.name}: parameter {name!r} is unknown; accepted: {', '.join((*params, *EXIT_NAMES))}"
        )

    def check(value: object) -> ParamValue | None:
        if name in params:
            return params[name].check(strategy.name, value)
        level: Any = {name: value}
        exits = replace(request.exits, **level)
        return getattr(replace(request, exits=exits).exits, name)  # type: ignore[no-any-return]

    if not isinstance(values, Between):
        checked = [check(value) for value in values]
        return _Axis(len(checked), checked.__getitem__)
    low, high = check(values.low), check(values.high)
    if isinstance(low, bool) or low is None or high is None:
        raise InvalidRequest(f"{strategy.name}: {name} takes no range; expected a list of values")
    whole = isinstance(low, int)
    if whole and values.step is not None and not float(values.step).is_integer():
        raise InvalidRequest(f"step = {values.step} of {name} is not accepted; expected a whole number")
    if values.step is None and not whole:
        return _Axis(None, lambda share: _rounded(low, high, share))
    first, step = _fraction(low), _fraction(values.step or 1)
    count = int((_fraction(high) - first) / step) + 1
    if count > _MOST_STEPS:
        raise InvalidRequest(
            f"step = {values.step} of {name} is too small for its range; leave it out to draw any number"
        )
    kind = int if whole else float
    return _Axis(count, lambda place: kind(first + place * step))


def _rounded(low: float, high: float, share: float) -> float:
    return min(max(float(f"{low + share * (high - low):.{_DIGITS}g}"), low), high)
