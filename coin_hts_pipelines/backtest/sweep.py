"""Every combination of a parameter grid over the same candles."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from coin_hts_pipelines.backtest.engine import evaluate
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.errors import Cancelled, InvalidRequest
from coin_hts_pipelines.market.candles import validated_arrays
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.strategies.base import IsCancelled, Progress, Signals
from coin_hts_pipelines.strategies.registry import get_strategy


@dataclass(frozen=True)
class SweepResult:
    """`table`: one row per combination in grid order: the parameters, then `study_*` and the metrics."""

    request: BacktestRequest
    table: pd.DataFrame


def run_sweep(
    candles: pd.DataFrame,
    request: BacktestRequest,
    grid: Mapping[str, Sequence[Any]],
    *,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> SweepResult:
    """Backtest every combination of `grid`, each over the request's other parameters.

    Parameters
    ----------
    candles
        Valid candle frame of one symbol.
    request
        The fixed part.
    grid
        Parameter name to the values to try; the last name varies fastest.
    progress, cancelled
        As for `run_backtest`.

    Raises
    ------
    InvalidRequest
        For an empty grid, an unknown parameter or a value out of range, before anything is computed.
    InvalidCandles
        If the candles are empty or break a rule.
    Cancelled
        If `cancelled()` became true.
    """
    if not grid or any(isinstance(values, str) or len(values) == 0 for values in grid.values()):
        raise InvalidRequest(f"grid {dict(grid)!r} is not accepted; expected at least one parameter with values each")
    arrays = validated_arrays(candles, Timeframe(request.timeframe))
    strategy = get_strategy(request.strategy)
    combinations = [
        strategy.full_params({**request.params, **dict(zip(grid, values, strict=True))})
        for values in itertools.product(*grid.values())
    ]
    report = progress or (lambda _: None)
    report(0.0)
    # Combinations that differ in the holding period alone share their signals.
    signals: dict[tuple[Any, ...], Signals] = {}
    rows = []
    for done, params in enumerate(combinations, start=1):
        key = tuple(value for name, value in params.items() if name != "hold_period_bars")
        if key not in signals:
            signals[key] = strategy.signals_of(arrays, params, None, cancelled)
        if cancelled is not None and cancelled():
            raise Cancelled(f"sweep of {request.strategy} was cancelled after {done - 1} of {len(combinations)}")
        combined = dataclasses.replace(request, params=params)
        result = evaluate(arrays, signals[key], params, combined, "")
        study = {f"study_{name}": value for name, value in result.study.items()}
        rows.append({**params, **study, **result.metrics})
        report(done / len(combinations))
    return SweepResult(request, pd.DataFrame(rows))
