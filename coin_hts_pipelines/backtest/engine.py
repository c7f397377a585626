"""One backtest from candles to result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from coin_hts_pipelines.backtest.digest import inputs_digest
from coin_hts_pipelines.backtest.metrics import compute_metrics
from coin_hts_pipelines.backtest.portfolio import simulate
from coin_hts_pipelines.backtest.regime import regime_mask
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.backtest.result import BacktestResult
from coin_hts_pipelines.backtest.signal_study import study_signals
from coin_hts_pipelines.errors import Cancelled
from coin_hts_pipelines.market.candles import CandleArrays, validated_arrays
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.strategies.base import IsCancelled, ParamValue, Progress, Signals
from coin_hts_pipelines.strategies.registry import get_strategy

# Signals are nearly all the work of a backtest.
_SIGNALS_SHARE = 0.9


def filtered_signals(
    candles: CandleArrays,
    request: BacktestRequest,
    params: Mapping[str, ParamValue],
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> Signals:
    """Signals of the request's strategy under its regime filter, over validated candles and full parameters."""
    signals = get_strategy(request.strategy).signals_of(candles, params, progress, cancelled)
    if not request.regime:
        return signals
    mask = regime_mask(candles, Timeframe(request.timeframe), request.regime)
    return replace(signals, buy=signals.buy & mask)


def evaluate(
    candles: CandleArrays, signals: Signals, params: dict[str, ParamValue], request: BacktestRequest, digest: str
) -> BacktestResult:
    """Study and portfolio of given signals over validated candles."""
    hold = int(params["hold_period_bars"])
    study = study_signals(candles.close, signals.buy, hold)
    portfolio = simulate(candles, study.bar, signals.sell, hold, request)
    metrics = compute_metrics(
        portfolio,
        candles.close,
        initial_cash=request.initial_cash,
        fee_rate=request.costs.fee_rate,
        periods_per_year=Timeframe(request.timeframe).periods_per_year,
    )
    return BacktestResult(
        request=request,
        params=params,
        candles=candles,
        confidence=signals.confidence[study.bar],
        signal_study=study,
        portfolio=portfolio,
        metrics=metrics,
        inputs_digest=digest,
    )


def run_backtest(
    candles: pd.DataFrame,
    request: BacktestRequest,
    *,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> BacktestResult:
    """Backtest one symbol.

    Parameters
    ----------
    candles
        Valid candle frame of one symbol (SPEC 2), n bars on the grid of the request's timeframe.
    request
        What to run.
    progress
        Called with the finished share, 0..1, never falling.
    cancelled
        Asked at least once a second; true ends the work.

    Returns
    -------
    BacktestResult
        Tables, study, metrics and digests.

    Raises
    ------
    InvalidCandles
        If the candles are empty or break a rule.
    Cancelled
        If `cancelled()` became true.
    """
    arrays = validated_arrays(candles, Timeframe(request.timeframe))
    params = request.full_params
    report = progress or (lambda _: None)
    report(0.0)
    signals = filtered_signals(arrays, request, params, lambda share: report(share * _SIGNALS_SHARE), cancelled)
    result = evaluate(arrays, signals, params, request, inputs_digest(arrays, request.identity()))
    if cancelled is not None and cancelled():
        raise Cancelled(f"{request.strategy} was cancelled")
    report(1.0)
    return result
