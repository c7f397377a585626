"""Every combination of a parameter grid over the same candles."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.backtest.metrics import COUNTS, METRICS, metric_values
from coin_hts_pipelines.backtest.portfolio import walk_account, walk_trades
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.backtest.signal_study import STUDY, study_values
from coin_hts_pipelines.errors import Cancelled, InvalidRequest
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays, validated_arrays
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.parallel import run_parallel
from coin_hts_pipelines.strategies.base import HOLD_PERIOD, IsCancelled, ParamValue, Progress
from coin_hts_pipelines.strategies.registry import get_strategy

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_COLUMNS = (*(f"study_{name}" for name in STUDY), *METRICS)
_WHOLE = {"study_samples", "study_closed", *COUNTS}
# Bars worked in one call of the kernel, which nothing can interrupt: well below half a second.
_BARS_A_CALL = 20_000_000


@dataclass(frozen=True)
class SweepResult:
    """`table`: one row per combination in grid order: the parameters, then `study_*` and the metrics."""

    request: BacktestRequest
    table: pd.DataFrame


@kernel
def _evaluate_holds(
    opens: FloatArray,
    highs: FloatArray,
    lows: FloatArray,
    closes: FloatArray,
    signals: IntArray,
    holds: IntArray,
    stop_loss: float,
    take_profit: float,
    fee: float,
    slippage: float,
    cash: float,
    next_open: bool,
    periods_per_year: float,
) -> FloatArray:
    """Study and metrics of the same signals held for each number of bars, one row each."""
    rows = np.empty((len(holds), 6 + 20))
    scratch, nothing = np.empty(len(closes)), np.empty(0)
    for h in range(len(holds)):
        rows[h, :6] = study_values(closes, signals, holds[h], nothing)
        entry, exit_, price, _, quantity, _, pnl, _, proceeds, paid = walk_trades(
            opens, highs, lows, closes, signals, holds[h], stop_loss, take_profit, fee, slippage, cash, next_open
        )
        account = walk_account(closes, entry, exit_, quantity, proceeds, cash, nothing, nothing, scratch)
        rows[h, 6:] = metric_values(
            closes, entry, exit_, price, quantity, pnl, paid, account, cash, fee, periods_per_year
        )
    return rows


def run_sweep(
    candles: pd.DataFrame,
    request: BacktestRequest,
    grid: Mapping[str, Sequence[Any]],
    *,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> SweepResult:
    """Backtest every combination of `grid`, each over the request's other parameters, on all processors.

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
    groups: dict[tuple[ParamValue, ...], list[int]] = {}
    for index, params in enumerate(combinations):
        key = tuple(value for name, value in params.items() if name != HOLD_PERIOD.name)
        groups.setdefault(key, []).append(index)
    values = np.empty((len(combinations), len(_COLUMNS)))
    done = 0

    def stop_if_cancelled() -> None:
        if cancelled is not None and cancelled():
            raise Cancelled(f"sweep of {request.strategy} was cancelled after {done} of {len(combinations)}")

    def work(members: list[int], stopped: Callable[[], bool]) -> None:
        _evaluate_group(arrays, request, [combinations[index] for index in members], members, values, stopped)

    def count(members: list[int]) -> None:
        nonlocal done
        done += len(members)
        report(done / len(combinations))

    stop_if_cancelled()
    answers = run_parallel(
        list(groups.values()), work, threads=os.cpu_count() or 1, on_done=count, on_wait=stop_if_cancelled
    )
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return SweepResult(request, _table(combinations, values))


def _evaluate_group(
    candles: CandleArrays,
    request: BacktestRequest,
    params: Sequence[Mapping[str, ParamValue]],
    members: Sequence[int],
    values: FloatArray,
    stopped: IsCancelled,
) -> None:
    signals = get_strategy(request.strategy).signals_of(candles, params[0], None, stopped)
    bars = np.flatnonzero(signals.buy).astype(np.int64)
    step = max(1, _BARS_A_CALL // len(candles))
    for start in range(0, len(members), step):
        if stopped():
            raise Cancelled(f"sweep of {request.strategy} was cancelled")
        holds = np.array([p[HOLD_PERIOD.name] for p in params[start : start + step]], dtype=np.int64)
        values[members[start : start + step]] = _evaluate_holds(
            candles.open,
            candles.high,
            candles.low,
            candles.close,
            bars,
            holds,
            request.exits.stop_loss or 0.0,
            request.exits.take_profit or 0.0,
            request.costs.fee_rate,
            request.costs.slippage_rate,
            request.initial_cash,
            request.fill == "next_open",
            Timeframe(request.timeframe).periods_per_year,
        )


def _table(combinations: Sequence[Mapping[str, ParamValue]], values: FloatArray) -> pd.DataFrame:
    columns: dict[str, Any] = {name: [params[name] for params in combinations] for name in combinations[0]}
    for index, name in enumerate(_COLUMNS):
        column = values[:, index]
        columns[name] = column.astype(np.int64) if name in _WHOLE else column
    return pd.DataFrame(columns)
