"""Many combinations of parameters and exits over the same candles."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.backtest.combinations import (
    Combination,
    checked_combinations,
    grid_combinations,
    sampled_combinations,
)
from coin_hts_pipelines.backtest.digest import digest_of
from coin_hts_pipelines.backtest.engine import filtered_signals
from coin_hts_pipelines.backtest.metrics import COUNTS, METRICS, metric_values
from coin_hts_pipelines.backtest.portfolio import walk_account, walk_trades
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.backtest.sampling import EXIT_NAMES, Draw, Sampling, Space
from coin_hts_pipelines.backtest.signal_study import STUDY, study_values
from coin_hts_pipelines.backtest.sizing import sizing_values
from coin_hts_pipelines.errors import Cancelled
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays, validated_arrays
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.parallel import run_parallel
from coin_hts_pipelines.strategies.base import HOLD_PERIOD, IsCancelled, ParamValue, Progress

__all__ = [
    "Combination",
    "SweepResult",
    "checked_combinations",
    "evaluate_combinations",
    "grid_combinations",
    "run_sweep",
    "sampled_combinations",
    "sweep_combinations",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_COLUMNS = (*(f"study_{name}" for name in STUDY), *METRICS)
_WHOLE = {"study_samples", "study_closed", *COUNTS}
# Bars worked in one call of the kernel, which nothing can interrupt: well below half a second.
_BARS_A_CALL = 20_000_000


@dataclass(frozen=True)
class SweepResult:
    """`table`: one row per combination in the order drawn: parameters, swept exits, then `study_*` and the metrics.

    `draw` says where the combinations come from; None when they were given one by one.
    """

    request: BacktestRequest
    candles: CandleArrays
    combinations: tuple[Combination, ...]
    table: pd.DataFrame
    draw: Draw | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What was varied."""
        return tuple(self.combinations[0].named)

    def request_of(self, row: int) -> BacktestRequest:
        """Return the backtest of one row."""
        combination = self.combinations[row]
        return replace(self.request, params=combination.params, exits=combination.exits)

    @cached_property
    def inputs_digest(self) -> str:
        """SHA-256 over the candles, the request without what the combinations say, and every combination."""
        identity = self.request.identity()
        del identity["params"], identity["exits"]
        params = self.combinations[0].params
        columns: dict[str, npt.NDArray[Any]] = {
            name: getattr(self.candles, name) for name in ("timestamp", "open", "high", "low", "close", "volume")
        }
        for name in params:
            columns[f"params.{name}"] = np.array([float(one.params[name]) for one in self.combinations])
        levels = np.array([one.exits.levels() for one in self.combinations])
        columns |= {f"exits.{name}": levels[:, k] for k, name in enumerate(EXIT_NAMES)}
        signal_exit = self.request.exits.signal_exit
        return digest_of(
            {"kind": "sweep_inputs", "layout": 1, "request": identity, "signal_exit": signal_exit}, columns
        )

    @cached_property
    def table_digest(self) -> str:
        """SHA-256 over the table; unlike a result's digest its last bits depend on the processor (docs/sweeps.md)."""
        columns: dict[str, npt.NDArray[Any]] = {}
        for name in map(str, self.table):
            column = self.table[name].to_numpy()
            columns[name] = column.astype(np.int64) if column.dtype == np.bool_ else column
        return digest_of({"kind": "sweep_table", "layout": 1}, columns)


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


def run_sweep(
    candles: pd.DataFrame,
    request: BacktestRequest,
    grid: Space,
    *,
    sampling: Sampling | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> SweepResult:
    """Backtest combinations of `grid`, each over the request's other parameters, in parallel.

    Parameters
    ----------
    candles
        Valid candle frame of one symbol.
    request
        The fixed part.
    grid
        Parameter name, or `stop_loss`, `take_profit`, `trailing_stop`, to the values to try or a `Between`; in a grid
        the last name varies fastest.
    sampling
        How combinations are taken from it; all of them unless said otherwise.
    threads
        Combinations computed at once, one per processor unless said otherwise; changes nothing in the result.
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
    combinations, draw = sampled_combinations(request, grid, sampling, cancelled)
    arrays = validated_arrays(candles, Timeframe(request.timeframe))
    result = sweep_combinations(arrays, request, combinations, threads=threads, progress=progress, cancelled=cancelled)
    return replace(result, draw=draw)


def sweep_combinations(
    candles: CandleArrays,
    request: BacktestRequest,
    combinations: Sequence[Combination],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> SweepResult:
    """Backtest each combination over validated candles; the rest is as in `run_sweep`."""
    years = Timeframe(request.timeframe).periods_per_year
    values = evaluate_combinations(
        candles,
        request,
        combinations,
        _evaluate_rules,
        years,
        len(_COLUMNS),
        threads=threads,
        progress=progress,
        cancelled=cancelled,
    )
    return SweepResult(request, candles, tuple(combinations), _table(combinations, values))


def evaluate_combinations(
    candles: CandleArrays,
    request: BacktestRequest,
    combinations: Sequence[Combination],
    evaluate: Callable[..., FloatArray],
    extra: float,
    width: int,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> FloatArray:
    """Call a kernel for every combination, in parallel: values (combinations, width).

    `evaluate` takes what `_evaluate_rules` takes, `extra` last, and gives a row for each of `rules`.
    """
    report = progress or (lambda _: None)
    report(0.0)
    # Combinations that differ in the holding period or the exits alone share their signals.
    groups: dict[tuple[ParamValue, ...], list[int]] = {}
    for index, combination in enumerate(combinations):
        key = tuple(value for name, value in combination.params.items() if name != HOLD_PERIOD.name)
        groups.setdefault(key, []).append(index)
    values = np.empty((len(combinations), width))
    sizing = sizing_values(request.sizing, candles)
    done = 0

    def stop_if_cancelled() -> None:
        if cancelled is not None and cancelled():
            raise Cancelled(f"sweep of {request.strategy} was cancelled after {done} of {len(combinations)}")

    def work(members: list[int], stopped: Callable[[], bool]) -> None:
        signals = filtered_signals(candles, request, combinations[members[0]].params, None, stopped)
        bars = np.flatnonzero(signals.buy).astype(np.int64)
        step = max(1, _BARS_A_CALL // len(candles))
        for start in range(0, len(members), step):
            if stopped():
                raise Cancelled(f"sweep of {request.strategy} was cancelled")
            part = members[start : start + step]
            values[part] = evaluate(
                candles.open,
                candles.high,
                candles.low,
                candles.close,
                bars,
                signals.sell if request.exits.signal_exit else signals.sell[:0],
                np.array([[float(combinations[k].hold), *combinations[k].exits.levels()] for k in part]),
                *sizing,
                request.costs.fee_rate,
                request.costs.slippage_rate,
                request.initial_cash,
                request.fill == "next_open",
                extra,
            )

    def count(members: list[int]) -> None:
        nonlocal done
        done += len(members)
        report(done / len(combinations))

    stop_if_cancelled()
    answers = run_parallel(
        list(groups.values()), work, threads=threads or os.cpu_count() or 1, on_done=count, on_wait=stop_if_cancelled
    )
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return values


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
