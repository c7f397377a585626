"""Combinations of parameters and exits: the rows of a sweep, each checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coin_hts_pipelines.backtest.request import BacktestRequest, Exits
from coin_hts_pipelines.backtest.sampling import EXIT_NAMES, Draw, Sampling, Space, draw_rows
from coin_hts_pipelines.errors import Cancelled, InvalidRequest
from coin_hts_pipelines.strategies.base import HOLD_PERIOD, IsCancelled, ParamValue
from coin_hts_pipelines.strategies.registry import get_strategy

_ROWS_A_LOOK = 10_000


@dataclass(frozen=True, slots=True)
class Combination:
    """One row of a sweep: full parameters, the exits, and what of both the grid named."""

    params: dict[str, ParamValue]
    exits: Exits
    named: dict[str, ParamValue | None]

    @property
    def hold(self) -> int:
        """Holding period in bars."""
        return int(self.params[HOLD_PERIOD.name])


def grid_combinations(request: BacktestRequest, grid: Space) -> list[Combination]:
    """Every combination of a grid over the request's other parameters and exits; the last name varies fastest.

    Raises
    ------
    InvalidRequest
        As `draw_rows`, or for values that do not go together.
    """
    return checked_combinations(request, draw_rows(request, grid, Sampling())[0])


def checked_combinations(request: BacktestRequest, rows: Sequence[Mapping[str, Any]]) -> list[Combination]:
    """Combinations of given rows, each naming parameters or exits; raises InvalidRequest as `grid_combinations`."""
    return list(map(_maker(request), rows))


def sampled_combinations(
    request: BacktestRequest,
    space: Space,
    sampling: Sampling | None = None,
    cancelled: IsCancelled | None = None,
) -> tuple[list[Combination], Draw]:
    """Draw combinations from a space; those the strategy refuses together are left out and counted.

    Raises
    ------
    InvalidRequest
        As `draw_rows`, or if the strategy refuses every combination.
    Cancelled
        If `cancelled()` became true.
    """
    rows, draw = draw_rows(request, space, sampling or Sampling())
    combine = _maker(request)
    combinations: list[Combination] = []
    refusal = ""
    for count, row in enumerate(rows):
        if count % _ROWS_A_LOOK == 0 and cancelled is not None and cancelled():
            raise Cancelled(f"sweep of {request.strategy} was cancelled before it began")
        try:
            combinations.append(combine(row))
        except InvalidRequest as error:
            refusal = str(error)
    if not combinations:
        raise InvalidRequest(f"none of the {len(rows):,} combinations is accepted; the last: {refusal}")
    return combinations, replace(draw, refused=len(rows) - len(combinations))


def _maker(request: BacktestRequest) -> Callable[[Mapping[str, Any]], Combination]:
    strategy = get_strategy(request.strategy)
    own = {param.name for param in strategy.all_params()}
    exits_of: dict[tuple[Any, ...], Exits] = {}

    def combine(row: Mapping[str, Any]) -> Combination:
        exits = {name: row[name] for name in EXIT_NAMES if name in row and name not in own}
        given = {name: value for name, value in row.items() if name not in exits}
        params = strategy.full_params({**request.params, **given})
        key = tuple(exits.items())
        if key not in exits_of:
            exits_of[key] = replace(request, exits=replace(request.exits, **exits)).exits
        named = {name: params[name] if name in params else getattr(exits_of[key], name) for name in row}
        return Combination(params, exits_of[key], named)

    return combine
