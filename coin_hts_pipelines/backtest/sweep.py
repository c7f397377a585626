"""Many combinations of parameters and exits over the same candles."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.backtest.engine import filtered_signals
from coin_hts_pipelines.backtest.metrics import COUNTS, METRICS, metric_values
from coin_hts_pipelines.backtest.portfolio import walk_account, walk_trades
from coin_hts_pipelines.backtest.request import BacktestRequest, Exits
from coin_hts_pipelines.backtest.signal_study import STUDY, study_values
from coin_hts_pipelines.backtest.sizing import sizing_values
from coin_hts_pipelines.errors import Cancelled, InvalidRequest
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays, validated_arrays
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.parallel import run_parallel
from coin_hts_pipelines.strategies.base import HOLD_PERIOD, IsCancelled, ParamValue, Progress
from coin_hts_pipelines.strategies.registry import get_strategy

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Exit rules that a grid may name beside the strategy's parameters; None switches one off.
EXIT_NAMES = ("stop_loss", "take_profit", "trailing_stop")

_COLUMNS = (*(f"study_{name}" for name in STUDY), *METRICS)
_WHOLE = {"study_samples", "study_closed", *COUNTS}
# Bars worked in one call of the kernel, which nothing can interrupt: well below half a second.
_BARS_A_CALL = 20_000_000


@dataclass(frozen=True)
class Combination:
    """One row of a sweep: full parameters, the exits, and what of both the grid named."""

    params: dict[str, ParamValue]
    exits: Exits
    named: dict[str, ParamValue | None]

    @property
    def hold(self) -> int:
        """Holding period in bars."""
        return int(self.params[HOLD_PERIOD.name])


@dataclass(frozen=True)
class SweepResult:
    """`table`: one row per combination in grid order: parameters, swept exits, then `study_*` and the metrics."""

    request: BacktestRequest
    combinations: tuple[Combination, ...]
    table: pd.DataFrame

    def request_of(self, row: int) -> BacktestRequest:
        """Return the backtest of one row."""
        combination = self.combinations[row]
        return replace(self.request, params=combination.params, exits=combination.exits)


@kernel
def _evaluate_rules(
    opens: FloatArray,
    highs: FloatArray,
    lows: FloatArray,
    closes: FloatArray,
    signals: IntArray,
    sell: BoolArray,
    rules: FloatArray,
    size_kind: int,
    size_value: float,
    ranges: FloatArray,
    fee: float,
    slippage: float,
    cash: float,
    next_open: bool,
    periods_per_year: float,
) -> FloatArray:
    """Study and metrics of the same signals under each row of `rules` (see `walk_trades`), one row each."""
    rows = np.empty((len(rules), 6 + 20))
    scratch, nothing, one_rule = np.empty(len(closes)), np.empty(0), np.empty(0, np.int64)
    for r in range(len(rules)):
        rows[r, :6] = study_values(closes, signals, int(rules[r, 0]), nothing)
        entry, exit_, price, _, quantity, _, pnl, _, idle, proceeds, paid = walk_trades(
            opens, highs, lows, closes, signals, sell, rules[r : r + 1], one_rule,
            size_kind, size_value, ranges, fee, slippage, cash, next_open,
        )  # fmt: skip
        account = walk_account(closes, entry, exit_, quantity, idle, proceeds, cash, nothing, nothing, scratch)
        rows[r, 6:] = metric_values(
            closes, entry, exit_, price, quantity, pnl, paid, account, cash, fee, periods_per_year
        )
    return rows


def grid_combinations(request: BacktestRequest, grid: Mapping[str, Sequence[Any]]) -> list[Combination]:
    """Every combination of a grid over the request's other parameters and exits; the last name varies fastest.

    Raises
    ------
    InvalidRequest
        For an empty grid, an unknown name or a value out of range.
    """
    if not grid or any(isinstance(values, str) or len(values) == 0 for values in grid.values()):
        raise InvalidRequest(f"grid {dict(grid)!r} is not accepted; expected at least one parameter with values each")
    rows = itertools.product(*grid.values())
    return checked_combinations(request, [dict(zip(grid, values, strict=True)) for values in rows])


def checked_combinations(request: BacktestRequest, rows: Sequence[Mapping[str, Any]]) -> list[Combination]:
    """Combinations of given rows, each naming parameters or exits; raises InvalidRequest as `grid_combinations`."""
    strategy = get_strategy(request.strategy)
    own = {param.name for param in strategy.all_params()}
    exits_of: dict[tuple[Any, ...], Exits] = {}
    combinations = []
    for row in rows:
        exits = {name: row[name] for name in EXIT_NAMES if name in row and name not in own}
        params = strategy.full_params(
            {**request.params, **{name: value for name, value in row.items() if name not in exits}}
        )
        key = tuple(exits.items())
        if key not in exits_of:
            exits_of[key] = replace(request, exits=replace(request.exits, **exits)).exits
        named = {name: params[name] if name in params else getattr(exits_of[key], name) for name in row}
        combinations.append(Combination(params, exits_of[key], named))
    return combinations


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
        Parameter name, or `stop_loss`, `take_profit`, `trailing_stop`, to the values to try; the last name varies
        fastest.
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
    combinations = grid_combinations(request, grid)
    arrays = validated_arrays(candles, Timeframe(request.timeframe))
    return sweep_combinations(arrays, request, combinations, progress=progress, cancelled=cancelled)


def sweep_combinations(
    candles: CandleArrays,
    request: BacktestRequest,
    combinations: Sequence[Combination],
    *,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> SweepResult:
    """Backtest each combination over validated candles; the rest is as in `run_sweep`."""
    report = progress or (lambda _: None)
    report(0.0)
    # Combinations that differ in the holding period or the exits alone share their signals.
    groups: dict[tuple[ParamValue, ...], list[int]] = {}
    for index, combination in enumerate(combinations):
        key = tuple(value for name, value in combination.params.items() if name != HOLD_PERIOD.name)
        groups.setdefault(key, []).append(index)
    values = np.empty((len(combinations), len(_COLUMNS)))
    sizing = sizing_values(request.sizing, candles)
    done = 0

    def stop_if_cancelled() -> None:
        if cancelled is not None and cancelled():
            raise Cancelled(f"sweep of {request.strategy} was cancelled after {done} of {len(combinations)}")

    def work(members: list[int], stopped: Callable[[], bool]) -> None:
        group = [combinations[index] for index in members]
        values[members] = _evaluate_group(candles, request, group, sizing, stopped)

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
    return SweepResult(request, tuple(combinations), _table(combinations, values))


def _evaluate_group(
    candles: CandleArrays,
    request: BacktestRequest,
    group: Sequence[Combination],
    sizing: tuple[int, float, FloatArray],
    stopped: IsCancelled,
) -> FloatArray:
    signals = filtered_signals(candles, request, group[0].params, None, stopped)
    bars = np.flatnonzero(signals.buy).astype(np.int64)
    step = max(1, _BARS_A_CALL // len(candles))
    rows = []
    for start in range(0, len(group), step):
        if stopped():
            raise Cancelled(f"sweep of {request.strategy} was cancelled")
        rules = np.array([[float(one.hold), *one.exits.levels()] for one in group[start : start + step]])
        rows.append(
            _evaluate_rules(
                candles.open,
                candles.high,
                candles.low,
                candles.close,
                bars,
                signals.sell if request.exits.signal_exit else signals.sell[:0],
                rules,
                *sizing,
                request.costs.fee_rate,
                request.costs.slippage_rate,
                request.initial_cash,
                request.fill == "next_open",
                Timeframe(request.timeframe).periods_per_year,
            )
        )
    return np.concatenate(rows)


def _table(combinations: Sequence[Combination], values: FloatArray) -> pd.DataFrame:
    first = combinations[0]
    columns: dict[str, Any] = {name: [one.params[name] for one in combinations] for name in first.params}
    for name in first.named:
        if name not in columns:
            columns[name] = np.array([one.named[name] for one in combinations], dtype=np.float64)
    for index, name in enumerate(_COLUMNS):
        column = values[:, index]
        columns[name] = column.astype(np.int64) if name in _WHOLE else column
    return pd.DataFrame(columns)
