"""Default grids: a modest neighbourhood of a strategy's parameters, for walk-forwards nobody wrote a grid for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coin_hts_pipelines.strategies.base import HOLD_PERIOD, Param, ParamValue, Strategy

MOST = 48
_FACTORS = (0.5, 1.0, 2.0)
_HOLDS = (1, 3, 5, 10)


def _around(param: Param, value: ParamValue) -> list[ParamValue]:
    """Half, once and twice a number, clipped to its range and in its type, ascending."""
    clipped = (min(max(float(value) * factor, param.low), param.high) for factor in _FACTORS)
    whole = isinstance(param.default, int)
    return sorted({value, *(round(number) if whole else number for number in clipped)})


def search_space(strategy: Strategy, params: Mapping[str, Any] | None = None) -> dict[str, list[ParamValue]]:
    """Grid around given parameters, of at most `MOST` combinations (docs/walk_forward.md 5).

    Holding periods 1, 3, 5, 10 and the given one, as far as they are in range; of the other numbers, in the strategy's
    order, half, once and twice the given value, as long as the combinations stay few enough.

    Parameters
    ----------
    strategy
        Whose parameters.
    params
        The middle, which is one of the combinations; what is missing is the strategy's default.

    Raises
    ------
    InvalidRequest
        If the given parameters are not accepted.
    """
    middle = strategy.full_params(params)
    *own, hold = strategy.all_params()
    holds = {int(middle[HOLD_PERIOD.name]), *(bars for bars in _HOLDS if hold.low <= bars <= hold.high)}
    grid: dict[str, list[ParamValue]] = {}
    most = MOST // len(holds)
    for param in own:
        if isinstance(param.default, bool):
            continue
        around = _around(param, middle[param.name])
        if 1 < len(around) <= most:
            grid[param.name] = around
            most //= len(around)
    return {**grid, HOLD_PERIOD.name: sorted(holds)}
