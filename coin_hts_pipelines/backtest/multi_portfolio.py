"""One account over many symbols: signals of each in parallel, then one walk over the times (docs/engine.md 4)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.backtest.digest import digest_of, inputs_digest
from coin_hts_pipelines.backtest.engine import filtered_signals
from coin_hts_pipelines.backtest.metrics import COUNTS, METRICS, metric_values
from coin_hts_pipelines.backtest.portfolio_request import PortfolioRequest
from coin_hts_pipelines.backtest.portfolio_result import PortfolioAccount, PortfolioResult, PortfolioTrades
from coin_hts_pipelines.backtest.portfolio_walk import (
    SKIPPED,
    Account,
    Book,
    Market,
    Rules,
    Walked,
    account_values,
    new_account,
    new_book,
    walk_times,
)
from coin_hts_pipelines.backtest.sizing import sizing_values
from coin_hts_pipelines.errors import Cancelled, InvalidCandles, InvalidRequest
from coin_hts_pipelines.market.candles import CandleArrays, validated_arrays
from coin_hts_pipelines.market.symbol import normalize_symbol
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.parallel import run_parallel
from coin_hts_pipelines.strategies.base import HOLD_PERIOD, IsCancelled, Progress, Signals

# Times times symbols worked in one call of the kernel, which nothing can interrupt: well below half a second.
_STEPS_A_CALL = 1_000_000
# Signals are nearly all the work.
_SIGNALS_SHARE = 0.9


@dataclass(frozen=True)
class SymbolSignals:
    """Validated candles of a symbol and what its own backtest makes of them; `digest` is its `inputs_digest`."""

    symbol: str
    candles: CandleArrays
    signals: Signals
    hold: int
    digest: str


def run_portfolio(
    candles: Mapping[str, pd.DataFrame],
    request: PortfolioRequest,
    *,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> PortfolioResult:
    """Backtest one account over many symbols.

    Parameters
    ----------
    candles
        Symbol, in any accepted spelling, to its valid candle frame on the grid of the request's timeframe. Frames may
        begin and end at different times and have different gaps.
    request
        What to run.
    progress
        Called with the finished share, 0..1, never falling.
    cancelled
        Asked at least once a second; true ends the work.

    Returns
    -------
    PortfolioResult
        Tables, metrics, counts and digests.

    Raises
    ------
    InvalidRequest
        If there is no symbol, one twice, symbols of different quotes, or an override of a symbol without candles.
    InvalidCandles
        If candles are empty or break a rule; the message names the symbol.
    Cancelled
        If `cancelled()` became true.
    """
    frames = _frames(candles, request)
    report = progress or (lambda _: None)
    report(0.0)
    _stop_if(cancelled)
    done = 0

    def work(symbol: str, stopped: Callable[[], bool]) -> SymbolSignals:
        return _signals(symbol, frames[symbol], request, stopped)

    def count(_: str) -> None:
        nonlocal done
        done += 1
        report(done / len(frames) * _SIGNALS_SHARE)

    answers = run_parallel(
        list(frames), work, threads=os.cpu_count() or 1, on_done=count, on_wait=lambda: _stop_if(cancelled)
    )
    inputs = []
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
        inputs.append(answer)
    result = evaluate_portfolio(inputs, request, lambda share: report(_SIGNALS_SHARE + 0.09 * share), cancelled)
    report(1.0)
    return result


def _stop_if(cancelled: IsCancelled | None) -> None:
    if cancelled is not None and cancelled():
        raise Cancelled("the portfolio was cancelled")


def _frames(candles: Mapping[str, pd.DataFrame], request: PortfolioRequest) -> dict[str, pd.DataFrame]:
    """Frames by canonical symbol, in alphabetical order."""
    names = sorted((normalize_symbol(text), text) for text in candles)
    frames = {symbol: candles[text] for symbol, text in names}
    if not frames:
        raise InvalidRequest("a portfolio of no symbols is not accepted; expected candles of at least one")
    if len(frames) < len(names):
        raise InvalidRequest(f"candles of {[text for _, text in names]!r} name a symbol twice; expected each once")
    quotes = sorted({symbol.partition("-")[0] for symbol in frames})
    if len(quotes) > 1:
        raise InvalidRequest(f"candles quote in {' and '.join(quotes)}; expected one currency, as the account has one")
    for symbol in request.overrides:
        if symbol not in frames:
            raise InvalidRequest(f"overrides of {symbol} are not accepted; expected one of {', '.join(frames)}")
    return frames


def _signals(symbol: str, frame: pd.DataFrame, request: PortfolioRequest, stopped: IsCancelled) -> SymbolSignals:
    backtest = request.backtest_of(symbol)
    try:
        arrays = validated_arrays(frame, Timeframe(backtest.timeframe))
    except InvalidCandles as error:
        raise InvalidCandles(f"{symbol}: {error}") from None
    params = backtest.full_params
    signals = filtered_signals(arrays, backtest, params, None, stopped)
    digest = inputs_digest(arrays, backtest.identity())
    return SymbolSignals(symbol, arrays, signals, int(params[HOLD_PERIOD.name]), digest)


def evaluate_portfolio(
    inputs: Sequence[SymbolSignals],
    request: PortfolioRequest,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> PortfolioResult:
    """Run the account over given signals of symbols in alphabetical order; the rest is as in `run_portfolio`."""
    market, rules = _market(inputs, request), _rules(inputs, request)
    account = new_account(len(inputs), request.backtest.initial_cash)
    book = new_book(int(market.buy.sum()))
    steps = min(max(1, _STEPS_A_CALL // len(inputs)), len(market.time))
    slices: list[Walked] = []
    while not slices or len(slices[-1][0]) == steps:
        _stop_if(cancelled)
        slices.append(walk_times(market, rules, account, book, steps))
        if progress is not None:
            progress(float((account.bar + 1).sum()) / len(market.time))
    times, equity, positions, busy = (np.concatenate(column) for column in zip(*slices, strict=True))
    trades = _trades(market, account, book)
    drawdown = np.empty(len(equity))
    values = account_values(equity, positions, busy, request.backtest.initial_cash, drawdown)
    backtests = {one.symbol: one.digest for one in inputs}
    header = {"kind": "portfolio inputs", "layout": 1, "request": request.identity(), "backtests": backtests}
    return PortfolioResult(
        request=request,
        symbols=tuple(backtests),
        signals=np.array([int(one.signals.buy.sum()) for one in inputs]),
        book=trades,
        account=PortfolioAccount(times, equity, drawdown, positions),
        metrics=_metrics(inputs, request, trades, account, equity, values),
        skipped=dict(zip(SKIPPED, account.skipped.tolist(), strict=True)),
        inputs_digest=digest_of(header, {}),
    )


def _market(inputs: Sequence[SymbolSignals], request: PortfolioRequest) -> Market:
    backtest = request.backtest
    candles, signals = [one.candles for one in inputs], [one.signals for one in inputs]
    return Market(
        first=np.cumsum([0, *map(len, candles)], dtype=np.int64),
        time=np.concatenate([one.timestamp for one in candles]),
        open=np.concatenate([one.open for one in candles]),
        high=np.concatenate([one.high for one in candles]),
        low=np.concatenate([one.low for one in candles]),
        close=np.concatenate([one.close for one in candles]),
        buy=np.concatenate([one.buy for one in signals]),
        confidence=np.concatenate([one.confidence for one in signals]),
        sell=np.concatenate([one.sell if backtest.exits.signal_exit else one.sell[:0] for one in signals]),
        ranges=np.concatenate([sizing_values(backtest.sizing, one)[2] for one in candles]),
    )


def _rules(inputs: Sequence[SymbolSignals], request: PortfolioRequest) -> Rules:
    backtest = request.backtest
    size_kind, size_value, _ = sizing_values(backtest.sizing, inputs[0].candles, request.max_positions)
    return Rules(
        np.array([one.hold for one in inputs], dtype=np.int64),
        *backtest.exits.levels(),
        size_kind,
        size_value,
        backtest.costs.fee_rate,
        backtest.costs.slippage_rate,
        backtest.fill == "next_open",
        request.max_positions,
        request.daily_loss_limit or 0.0,
    )


def _trades(market: Market, account: Account, book: Book) -> PortfolioTrades:
    made = {name: column[: account.trades[0]].copy() for name, column in book._asdict().items()}
    first, exit_bar = market.first[made["symbol"]], made["exit_bar"]
    exit_time = np.where(exit_bar >= 0, market.time[first + exit_bar], np.iinfo(np.int64).min)
    return PortfolioTrades(**made, entry_time=market.time[first + made["entry_bar"]], exit_time=exit_time)


def _metrics(
    inputs: Sequence[SymbolSignals],
    request: PortfolioRequest,
    trades: PortfolioTrades,
    account: Account,
    equity: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
) -> dict[str, float]:
    backtest = request.backtest
    figures = metric_values(
        equity,  # in the place of the closes, of which it takes the number and buy and hold alone
        trades.entry_bar,
        trades.exit_bar,
        trades.entry_price,
        trades.quantity,
        trades.pnl,
        account.paid,
        values,
        backtest.initial_cash,
        backtest.costs.fee_rate,
        Timeframe(backtest.timeframe).periods_per_year,
    )
    metrics = dict(zip(METRICS, figures.tolist(), strict=True))
    growth = float(np.mean([one.candles.close[-1] / one.candles.close[0] - 1 for one in inputs]))
    metrics["buy_and_hold_return"] = growth if math.isfinite(growth) else math.nan
    return {name: int(value) if name in COUNTS else value for name, value in metrics.items()}
