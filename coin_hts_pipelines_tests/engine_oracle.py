"""docs/engine.md 2 and 3 once more, as literally and slowly as the page reads; it imports nothing of the package."""

from __future__ import annotations

import math
from typing import Any

from coin_hts_pipelines_tests.oracle import Bars

NAN, INF = math.nan, math.inf
Row = dict[str, Any]


def true_ranges(bars: Bars) -> list[float]:
    return [NAN] + [
        max(bars.high[i], bars.close[i - 1]) - min(bars.low[i], bars.close[i - 1]) for i in range(1, bars.n)
    ]


def wilder(bars: Bars, window: int) -> list[float]:
    """Average true range of every bar, NaN before bar `window`."""
    ranges, out = true_ranges(bars), [NAN] * bars.n
    for i in range(window, bars.n):
        out[i] = (
            sum(ranges[1 : window + 1]) / window if i == window else (out[i - 1] * (window - 1) + ranges[i]) / window
        )
    return out


def quantity_for(sizing: Row, cash: float, unit: float, average_range: float) -> float | None:
    """Section 3; None buys nothing."""
    if "fraction" in sizing:
        return sizing["fraction"] * cash / unit
    if "amount" in sizing:
        return min(sizing["amount"], cash) / unit
    if "risk" in sizing:
        if math.isnan(average_range):
            return None
        move = sizing.get("atr_multiple", 2.0) * average_range
        return min(sizing["risk"] * cash / move if move > 0 else INF, cash / unit)
    return cash / unit


def account(
    bars: Bars,
    buys: list[bool],
    sells: list[bool],
    *,
    hold: int,
    fill: str = "close",
    fee_rate: float = 0.001,
    slippage_rate: float = 0.0002,
    stop_loss: float | None = None,
    take_profit: float | None = None,
    trailing_stop: float | None = None,
    sizing: Row | None = None,
    initial_cash: float = 10_000_000.0,
) -> tuple[list[Row], list[float]]:
    """Trades and equity per bar of one account; `sells` all false without SELL signals."""
    sizing = sizing or {}
    ranges = wilder(bars, sizing.get("atr_window", 14))
    next_open = fill == "next_open"
    cash, trades, equity = initial_cash, [], []
    trade: Row | None = None
    ordered: int | None = None

    def buy(i: int, price: float, signal_bar: int) -> Row | None:
        nonlocal cash
        entry = price * (1 + slippage_rate)
        quantity = quantity_for(sizing, cash, entry * (1 + fee_rate), ranges[signal_bar])
        if quantity is None:
            return None
        fee = quantity * entry * fee_rate
        cash -= quantity * entry + fee
        return {"entry_bar": i, "entry": entry, "quantity": quantity, "entry_fee": fee, "exit_bar": None,
                "exit": NAN, "pnl": NAN, "reason": "open"}  # fmt: skip

    def exit_on(i: int, held: Row) -> tuple[float, str] | None:
        entry = held["entry"]
        counted = [bars.high[j] for j in range(held["entry_bar"] + (0 if next_open else 1), i)]
        trail = -INF if trailing_stop is None else max([entry, *counted]) * (1 - trailing_stop)
        stop = -INF if stop_loss is None else entry * (1 - stop_loss)
        target = INF if take_profit is None else entry * (1 + take_profit)
        floor, why = (trail, "trailing_stop") if trail > stop else (stop, "stop_loss")
        if i > held["entry_bar"]:
            if next_open and sells[i - 1]:
                return bars.open[i], "signal"
            if bars.open[i] <= floor:
                return bars.open[i], why
            if bars.open[i] >= target:
                return bars.open[i], "take_profit"
        if bars.low[i] <= floor:
            return floor, why
        if bars.high[i] >= target:
            return target, "take_profit"
        if not next_open and sells[i]:
            return bars.close[i], "signal"
        if i == held["entry_bar"] + hold:
            return bars.close[i], "time"
        return None

    for i in range(bars.n):
        busy = trade is not None or ordered is not None
        if ordered is not None:
            trade = buy(i, bars.open[i], ordered)
            ordered = None
            if trade is None:
                busy = False
            else:
                trades.append(trade)
        if trade is not None:
            found = exit_on(i, trade)
            if found is not None:
                price, reason = found
                filled = price * (1 - slippage_rate)
                fee = trade["quantity"] * filled * fee_rate
                cash += trade["quantity"] * filled - fee
                spent = trade["quantity"] * trade["entry"] + trade["entry_fee"]
                trade |= {"exit_bar": i, "exit": filled, "reason": reason}
                trade["pnl"] = trade["quantity"] * filled - fee - spent
                trade = None
        if buys[i] and not busy:
            if next_open:
                ordered = i
            else:
                trade = buy(i, bars.close[i], i)
                if trade is not None:
                    trades.append(trade)
        equity.append(cash + (trade["quantity"] * bars.close[i] if trade else 0.0))
    return trades, equity
