"""Walk-forward: parameters chosen on past bars trade the bars that follow (docs/walk_forward.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.backtest.engine import filtered_signals
from coin_hts_pipelines.backtest.metrics import METRICS, compute_metrics
from coin_hts_pipelines.backtest.portfolio import Portfolio, account_of, walk_trades
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.backtest.result import BacktestResult
from coin_hts_pipelines.backtest.sampling import Space
from coin_hts_pipelines.backtest.signal_study import STUDY, SignalStudy
from coin_hts_pipelines.backtest.sizing import sizing_values
from coin_hts_pipelines.backtest.sweep import Combination, sampled_combinations, sweep_combinations
from coin_hts_pipelines.backtest.walk_forward_result import (
    WalkForwardResult,
    walk_forward_digest,
    walk_forward_result,
)
from coin_hts_pipelines.backtest.walk_windows import Window, walk_windows
from coin_hts_pipelines.errors import Cancelled, InvalidRequest
from coin_hts_pipelines.market.candles import CandleArrays, validated_arrays
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.strategies.base import HOLD_PERIOD, BoolArray, FloatArray, IsCancelled, ParamValue, Progress
from coin_hts_pipelines.strategies.registry import get_strategy

IntArray = npt.NDArray[np.int64]

SELECTABLE = (*METRICS, *(f"study_{name}" for name in STUDY))

# Sweeps are nearly all the work.
_SWEEPS_SHARE = 0.9


@dataclass(frozen=True)
class _Plan:
    """Signals of all n bars and the rules they stand under: `rules` (k, 4) of `walk_trades`, `window_of` (n,)."""

    buy: BoolArray
    sell: BoolArray
    rules: FloatArray
    window_of: IntArray


def run_walk_forward(
    candles: pd.DataFrame,
    request: BacktestRequest,
    grid: Space,
    *,
    train_bars: int,
    test_bars: int,
    anchored: bool = False,
    select: str = "sharpe",
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> WalkForwardResult:
    """Choose parameters on past bars, trade the following ones, and judge the stitched account.

    Parameters
    ----------
    candles
        Valid candle frame of one symbol, n bars.
    request
        The fixed part.
    grid
        As for `run_sweep`; combinations the strategy refuses are left out.
    train_bars, test_bars
        Bars that choose and bars that are traded with the choice.
    anchored
        Train on all bars before the test instead of the last `train_bars`.
    select
        Figure of the sweep to maximise: a metric of SPEC 4.3 or `study_*`.
    progress, cancelled
        As for `run_backtest`.

    Raises
    ------
    InvalidRequest
        For a grid, lengths or figure that are not accepted, before anything is computed.
    InvalidCandles
        If the candles are empty or break a rule.
    Cancelled
        If `cancelled()` became true.
    """
    if select not in SELECTABLE:
        raise InvalidRequest(f"select {select!r} is unknown; accepted: {', '.join(SELECTABLE)}")
    combinations, _ = sampled_combinations(request, grid, None, cancelled)
    arrays = validated_arrays(candles, Timeframe(request.timeframe))
    windows = walk_windows(len(arrays), train_bars, test_bars, anchored=anchored)
    report = progress or (lambda _: None)
    report(0.0)
    chosen, trained = _train(arrays, request, combinations, windows, select, report, cancelled)
    plan = _plan(arrays, request, combinations, windows, chosen, cancelled)

    sizing = sizing_values(request.sizing, arrays)
    tested = []
    for window in windows:
        if cancelled is not None and cancelled():
            raise Cancelled(f"walk-forward of {request.strategy} was cancelled")
        portfolio, study = _account(arrays, request, plan, sizing, window.test_start, window.test_stop)
        metrics = _metrics(portfolio, arrays.close[window.test_start : window.test_stop], request)
        tested.append({**metrics, **{f"study_{name}": value for name, value in study.stats.items()}})
    first = windows[0].test_start
    portfolio, study = _account(arrays, request, plan, sizing, first, len(arrays))
    options = {"train_bars": first, "test_bars": int(test_bars), "anchored": bool(anchored), "select": select}
    account = BacktestResult(
        request=request,
        params={},
        candles=arrays.part(first, len(arrays)),
        confidence=np.empty(0),
        signal_study=study,
        portfolio=portfolio,
        metrics=_metrics(portfolio, arrays.close[first:], request),
        inputs_digest=walk_forward_digest(arrays, request, combinations, options),
    )
    result = walk_forward_result(arrays, account, options, windows, combinations, chosen, trained, tested)
    report(1.0)
    return result


def best_row(table: pd.DataFrame, select: str) -> int | None:
    """Row of a sweep's table with the greatest `select` among those with a closed trade; None without any.

    NaN is worse than any number; of equal rows the first is taken.
    """
    traded = np.flatnonzero(table["trades"].to_numpy() > 0)
    if len(traded) == 0:
        return None
    values = table[select].to_numpy(dtype=np.float64)[traded]
    return int(traded[np.argmax(np.where(np.isnan(values), -np.inf, values))])


def _train(
    candles: CandleArrays,
    request: BacktestRequest,
    combinations: Sequence[Combination],
    windows: Sequence[Window],
    select: str,
    report: Progress,
    cancelled: IsCancelled | None,
) -> tuple[list[int | None], list[dict[str, float] | None]]:
    """Chosen combination of every window and its row of the window's sweep, None without one."""
    total = sum(window.test_start - window.train_start for window in windows)
    done = 0
    chosen: list[int | None] = []
    rows: list[dict[str, float] | None] = []
    for window in windows:
        bars = window.test_start - window.train_start

        def advance(share: float, done: int = done, bars: int = bars) -> None:
            report(_SWEEPS_SHARE * (done + share * bars) / total)

        # The sweep gets the train bars and nothing else: what lies behind them cannot have decided anything.
        train = candles.part(window.train_start, window.test_start)
        table = sweep_combinations(train, request, combinations, progress=advance, cancelled=cancelled).table
        best = best_row(table, select)
        chosen.append(best)
        rows.append(None if best is None else {name: float(table[name].iloc[best]) for name in SELECTABLE})
        done += bars
    return chosen, rows


def _plan(
    candles: CandleArrays,
    request: BacktestRequest,
    combinations: Sequence[Combination],
    windows: Sequence[Window],
    chosen: Sequence[int | None],
    cancelled: IsCancelled | None,
) -> _Plan:
    n, sells = len(candles), get_strategy(request.strategy).sells and request.exits.signal_exit
    buy, sell = np.zeros(n, dtype=np.bool_), np.zeros(n if sells else 0, dtype=np.bool_)
    rules, window_of = np.zeros((len(windows), 4)), np.zeros(n, dtype=np.int64)
    # Windows that chose the same signals share them.
    users: dict[tuple[ParamValue, ...], list[tuple[slice, Combination]]] = {}
    for k, (window, best) in enumerate(zip(windows, chosen, strict=True)):
        bars = slice(window.test_start, window.test_stop)
        window_of[bars] = k
        if best is not None:
            one = combinations[best]
            key = tuple(value for name, value in one.params.items() if name != HOLD_PERIOD.name)
            users.setdefault(key, []).append((bars, one))
            rules[k] = one.hold, *one.exits.levels()
    for members in users.values():
        signals = filtered_signals(candles, request, members[0][1].params, None, cancelled)
        for bars, _ in members:
            buy[bars] = signals.buy[bars]
            if sells:
                sell[bars] = signals.sell[bars]
    return _Plan(buy, sell, rules, window_of)


def _account(
    candles: CandleArrays,
    request: BacktestRequest,
    plan: _Plan,
    sizing: tuple[int, float, FloatArray],
    start: int,
    stop: int,
) -> tuple[Portfolio, SignalStudy]:
    """One account over the bars `start .. stop - 1`, flat before them, each signal under its own window's rules."""
    part = candles.part(start, stop)
    bars = np.flatnonzero(plan.buy[start:stop]).astype(np.int64)
    rule_of = plan.window_of[start:stop][bars]
    kind, value, ranges = sizing
    trades = walk_trades(
        part.open,
        part.high,
        part.low,
        part.close,
        bars,
        plan.sell[start:stop],
        plan.rules,
        rule_of,
        kind,
        value,
        ranges[start:stop],
        request.costs.fee_rate,
        request.costs.slippage_rate,
        request.initial_cash,
        request.fill == "next_open",
    )
    portfolio = account_of(part, trades, request.initial_cash)
    return portfolio, _study(part.close, bars, plan.rules[rule_of, 0].astype(np.int64))


def _study(close: FloatArray, bars: IntArray, holds: IntArray) -> SignalStudy:
    """Study of SPEC 4.1 in which every signal has a holding period of its own; `holds` (s,)."""
    open_ = bars + holds >= len(close)
    at, holds = bars[~open_], holds[~open_]
    returns = (close[at + holds] - close[at]) / close[at] * 100
    stats: dict[str, float] = dict.fromkeys(STUDY, 0.0)
    stats["samples"], stats["closed"] = len(bars), len(at)
    if len(at):
        cumulated = np.cumsum(returns)
        peak = np.maximum.accumulate(np.maximum(cumulated, 0.0))
        stats["win_rate"] = float(np.count_nonzero(returns > 0)) / len(at)
        stats["avg_return"] = float(cumulated[-1]) / len(at)
        stats["max_drawdown"] = float(np.max(peak - cumulated))
        stats["avg_hold_bars"] = float(np.mean(holds))
    return SignalStudy(bars, returns, stats)


def _metrics(portfolio: Portfolio, close: FloatArray, request: BacktestRequest) -> dict[str, float]:
    return compute_metrics(
        portfolio,
        close,
        initial_cash=request.initial_cash,
        fee_rate=request.costs.fee_rate,
        periods_per_year=Timeframe(request.timeframe).periods_per_year,
    )
