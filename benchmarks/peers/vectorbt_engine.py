"""vectorbt on the rules of SPEC 4.2, as far as it can express them.

Without stops the bars of entry and exit follow from the signals alone; they are worked out here by a compiled loop and
handed over as arrays, which is vectorbt's fast way (its Rust engine takes it). With stops they depend on the account,
so a signal function decides bar by bar. Fees and slippage are ours, stops are measured from the fill price and sold
with slippage, a year has 365 days.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import vectorbt as vbt
from numba import njit

from benchmarks.measure import median_seconds, seconds_of
from benchmarks.peers import Arrays, Job, answer


@njit(cache=True)
def _plan(buy: Any, hold: int, lag: int) -> Any:
    """Bars of entry and exit: a signal on a held bar, the exit bar included, does not count."""
    n = len(buy)
    entries, exits = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    free = 0
    for s in range(n - lag):
        if buy[s] and s >= free:
            entries[s + lag] = True
            free = s + lag + hold + 1
            if free <= n:
                exits[free - 1] = True
    return entries, exits


@njit(cache=True)
def _decide(context: Any, buy: Any, hold: int, entered: Any) -> tuple[bool, bool, bool, bool]:
    """Long entry and long exit of a bar on which no stop was hit."""
    if context.position_now > 0:
        return False, context.i >= entered[0] + hold, False, False
    if buy[context.i]:
        entered[0] = context.i
        return True, False, False, False
    return False, False, False, False


def _portfolio(candles: Arrays, job: Job, entries: Any = None, exits: Any = None) -> Any:
    request = {"stop_loss": None, "take_profit": None, "fill": "close", **job}
    index = pd.DatetimeIndex(candles["timestamp"].view("datetime64[us]"))
    frame = pd.DataFrame({name: candles[name] for name in ("open", "high", "low", "close")}, index=index)
    given: dict[str, Any] = {"entries": entries, "exits": exits}
    if request["stop_loss"] or request["take_profit"]:
        given = {
            "signal_func_nb": _decide,
            "signal_args": (candles["buy"], request["hold"], np.array([-1])),
            "open": frame["open"],
            "high": frame["high"],
            "low": frame["low"],
            "sl_stop": request["stop_loss"] or np.nan,
            "tp_stop": request["take_profit"] or np.nan,
            "stop_entry_price": "fillprice",
            "stop_exit_price": "stopmarket",
        }
    elif request["fill"] == "next_open":
        given["price"] = np.where(entries, frame["open"], frame["close"])
    return vbt.Portfolio.from_signals(
        frame["close"],
        **given,
        fees=request["fee_rate"],
        slippage=request["slippage_rate"],
        init_cash=request["initial_cash"],
        min_size=0.0,
        freq=pd.Timedelta(seconds=request["bar_seconds"]),
    )


def _figures(portfolio: Any) -> dict[str, Any]:
    """Those of SPEC 4.3 that vectorbt has, one value a column."""
    returns, trades = portfolio.returns_acc, portfolio.trades.closed
    return {
        "total_return": portfolio.total_return(),
        "annual_return": returns.annualized(),
        "annual_volatility": returns.annualized_volatility(),
        "sharpe": returns.sharpe_ratio(),
        "sortino": returns.sortino_ratio(),
        # Its running maximum begins with the cash, as ours does; that of `drawdowns` begins with the first bar.
        "max_drawdown": returns.max_drawdown(),
        "calmar": returns.calmar_ratio(),
        "exposure": portfolio.position_coverage(),
        "trades": trades.count(),
        "win_rate": trades.win_rate(),
        "profit_factor": trades.profit_factor(),
        "expectancy": trades.expectancy(),
        "sqn": trades.sqn(),
        "avg_trade_bars": trades.duration.mean(),
        "fees_paid": portfolio.orders.fees.sum(),
    }


def backtest(candles: Arrays, job: Job) -> Job:
    """Run one backtest, timed unless `times` is 0; trades, equity and figures."""
    entries, exits = _plan(candles["buy"], job["hold"], 1 if job.get("fill") == "next_open" else 0)

    def run() -> Any:
        return _portfolio(candles, job, entries, exits)

    timings = {}
    if job["times"]:
        timings["stats_seconds"] = median_seconds(lambda: run().stats(), times=job["times"])
        timings["figures_seconds"] = median_seconds(lambda: _figures(run()), times=job["times"])
    portfolio = run()
    closed = portfolio.trades.closed.records
    return {
        **timings,
        "entry_bars": closed["entry_idx"].tolist(),
        "exit_bars": closed["exit_idx"].tolist(),
        "entry_prices": closed["entry_price"].tolist(),
        "exit_prices": closed["exit_price"].tolist(),
        "pnl": closed["pnl"].tolist(),
        "equity": portfolio.value().tolist(),
        "final_equity": float(portfolio.final_value()),
        "figures": {name: float(value) for name, value in _figures(portfolio).items()},
    }


def many(candles: Arrays, job: Job) -> Job:
    """Run the backtests of `jobs` in turn, for the parity tests; job k takes the columns that end in `@k`."""
    parts = []
    for k, part in enumerate(job["jobs"]):
        columns = {name.removesuffix(f"@{k}"): column for name, column in candles.items() if name.endswith(f"@{k}")}
        parts.append(backtest(columns, part))
    return {"answers": parts}


def sweep(candles: Arrays, job: Job) -> Job:
    """Run `volume_long_candle` over a grid: one column a combination, all figures for each."""
    volume = pd.Series(candles["volume"])
    average = volume.rolling(20, min_periods=1).mean().to_numpy()
    opened, closed = candles["open"], candles["close"]
    body = (closed - opened) / opened
    wick = np.maximum(np.maximum(candles["high"] - closed, 0), np.maximum(opened - candles["low"], 0)) / opened

    def run() -> Any:
        plans = []
        for multiplier in job["grid"]["vol_multiplier"]:
            for least in job["grid"]["body_pct"]:
                buy = (volume >= average * multiplier) & (body >= least) & (wick < 2 * least) & (body > 0)
                buys = buy.to_numpy() & (average > 0)
                plans += [_plan(buys, hold, 0) for hold in job["grid"]["hold_period_bars"]]
        entries, exits = (np.column_stack(parts) for parts in zip(*plans, strict=True))
        return _figures(_portfolio(candles, job, entries, exits))

    trades = int(run()["trades"].sum())
    return {"seconds": seconds_of(run), "trades": trades}


if __name__ == "__main__":
    answer({"backtest": backtest, "many": many, "sweep": sweep})
