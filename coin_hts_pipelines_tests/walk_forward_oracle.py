"""docs/walk_forward.md once more, as literally and slowly as the page reads; it imports nothing of the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pandas as pd

from coin_hts_pipelines_tests import oracle
from coin_hts_pipelines_tests.oracle import Bars

NAN, INF = math.nan, math.inf
Row = dict[str, Any]
# BUY and SELL per bar of a frame under full parameters.
SignalsOf = Callable[[pd.DataFrame, Row], tuple[list[bool], list[bool]]]
EXITS = ("stop_loss", "take_profit", "trailing_stop")
FEE, SLIPPAGE, CASH = 0.001, 0.0002, 10_000_000.0


def windows_of(n: int, train: int, test: int, anchored: bool) -> list[tuple[list[int], list[int]]]:
    """Train and test bars of every window, found bar by bar."""
    found: list[tuple[list[int], list[int]]] = []
    for i in range(n):
        if i < train:
            continue
        if (i - train) % test == 0:
            found.append(([j for j in range(i) if anchored or j >= i - train], []))
        found[-1][1].append(i)
    return found


def account(
    bars: Bars, buys: list[bool], sells: list[bool], rule_of: Callable[[int], Row], fill: str
) -> tuple[list[Row], list[float], list[bool], Row]:
    """Trades, equity, whether held after every bar, what was paid; a trade is under the rule of its signal's bar."""
    next_open = fill == "next_open"
    cash, held_after, equity, trades = CASH, [], [], []
    paid = {"fees_paid": 0.0, "slippage_paid": 0.0}
    trade: Row | None = None
    order: int | None = None

    def buy(i: int, price: float, signal_bar: int) -> Row:
        nonlocal cash
        entry = price * (1 + SLIPPAGE)
        quantity = cash / (entry * (1 + FEE))
        fee = quantity * entry * FEE
        paid["fees_paid"] += fee
        paid["slippage_paid"] += quantity * (entry - price)
        cash = 0.0
        trades.append(
            {
                "entry_bar": i,
                "entry_price": entry,
                "quantity": quantity,
                "fees": fee,
                "exit_bar": None,
                "rule": rule_of(signal_bar),
                "pnl": NAN,
                "return_pct": NAN,
                "reason": "open",
                "status": "open",
            }
        )
        return trades[-1]

    def leaving(i: int, held: Row) -> tuple[float, str] | None:
        first, entry, rule = held["entry_bar"], held["entry_price"], held["rule"]
        peak = max([entry, *bars.high[first + (0 if next_open else 1) : i]])
        trail = peak * (1 - rule["trailing_stop"]) if rule["trailing_stop"] else -INF
        stop = entry * (1 - rule["stop_loss"]) if rule["stop_loss"] else -INF
        target = entry * (1 + rule["take_profit"]) if rule["take_profit"] else INF
        floor, why = max((stop, "stop_loss"), (trail, "trailing_stop"), key=lambda pair: pair[0])
        later = i > first
        for happens, price, reason in (
            (later and next_open and sells[i - 1], bars.open[i], "signal"),
            (later and bars.open[i] <= floor, bars.open[i], why),
            (later and bars.open[i] >= target, bars.open[i], "take_profit"),
            (bars.low[i] <= floor, floor, why),
            (bars.high[i] >= target, target, "take_profit"),
            (not next_open and sells[i], bars.close[i], "signal"),
            (i == first + rule["hold_period_bars"], bars.close[i], "time"),
        ):
            if happens:
                return price, reason
        return None

    for i in range(bars.n):
        busy = trade is not None or order is not None
        if order is not None:
            trade, order = buy(i, bars.open[i], order), None
        if trade is not None and (trade["entry_bar"] < i or next_open) and (found := leaving(i, trade)):
            price, reason = found
            filled = price * (1 - SLIPPAGE)
            fee = trade["quantity"] * filled * FEE
            paid["fees_paid"] += fee
            paid["slippage_paid"] += trade["quantity"] * (price - filled)
            cash = trade["quantity"] * filled - fee
            spent = trade["quantity"] * trade["entry_price"] * (1 + FEE)
            trade |= {"exit_bar": i, "reason": reason, "status": "closed", "pnl": cash - spent}
            trade |= {"return_pct": (cash - spent) / spent * 100, "fees": trade["fees"] + fee}
            trade = None
        if buys[i] and not busy:
            if next_open:
                order = i
            else:
                trade = buy(i, bars.close[i], i)
        held_after.append(trade is not None)
        equity.append(cash + (trade["quantity"] * bars.close[i] if trade else 0.0))
    return trades, equity, held_after, paid


def study(bars: Bars, buys: list[bool], hold_of: Callable[[int], int]) -> Row:
    signals = [i for i in range(bars.n) if buys[i]]
    closed = [i for i in signals if i + hold_of(i) < bars.n]
    returns = [(bars.close[i + hold_of(i)] - bars.close[i]) / bars.close[i] * 100 for i in closed]
    total = highest = fall = 0.0
    for change in returns:
        total += change
        highest = max(highest, total)
        fall = max(fall, highest - total)
    return {
        "samples": len(signals),
        "closed": len(closed),
        "win_rate": sum(change > 0 for change in returns) / len(returns) if returns else 0.0,
        "avg_return": oracle.mean(returns) if returns else 0.0,
        "max_drawdown": fall,
        "avg_hold_bars": oracle.mean([hold_of(i) for i in closed]) if closed else 0.0,
    }


def figures(frame: pd.DataFrame, buys: list[bool], sells: list[bool], rule_of: Callable[[int], Row], fill: str) -> Row:
    """Study, metrics, trades and equity of one account over a frame that begins flat."""
    bars = Bars(frame)
    trades, equity, held_after, paid = account(bars, buys, sells, rule_of, fill)
    metrics = oracle.metrics_of(bars, trades, equity, held_after, paid, "1D", CASH)
    studied = study(bars, buys, lambda i: int(rule_of(i)["hold_period_bars"]))
    return {**metrics, **{f"study_{name}": value for name, value in studied.items()}, "table": trades, "equity": equity}


def walk_forward(
    candles: pd.DataFrame,
    defaults: Row,
    grid: dict[str, list[Any]],
    signals_of: SignalsOf,
    *,
    train: int,
    test: int,
    anchored: bool = False,
    select: str = "sharpe",
    fill: str = "close",
) -> Row:
    """`defaults` holds full parameters and exits; every window's choice and figures, and the account of it all."""
    rows = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    n = len(candles)
    buys, sells = [False] * n, [False] * n
    rules: list[Row] = [{}] * n
    windows = []
    for trained, tested in windows_of(n, train, test, anchored):
        frame = candles.iloc[trained].reset_index(drop=True)
        best, best_row, best_figures = -INF, None, None
        for k, row in enumerate(rows):
            full = defaults | row
            found = figures(frame, *signals_of(frame, full), lambda _, full=full: full, fill)
            value = -INF if math.isnan(found[select]) else found[select]
            if found["trades"] > 0 and (best_row is None or value > best):
                best, best_row, best_figures = value, k, found
        chosen = None if best_row is None else defaults | rows[best_row]
        if chosen is not None:
            known = candles.iloc[: tested[-1] + 1].reset_index(drop=True)
            bought, sold = signals_of(known, chosen)
            for i in tested:
                buys[i], sells[i], rules[i] = bought[i], sold[i], chosen
        part = slice(tested[0], tested[-1] + 1)
        outside = figures(
            candles.iloc[part].reset_index(drop=True),
            buys[part],
            sells[part],
            lambda i, first=tested[0]: rules[first + i],
            fill,
        )
        windows.append({"chosen": best_row, "train": best_figures, "test": outside, "bars": (trained, tested)})
    stitched = figures(
        candles.iloc[train:].reset_index(drop=True), buys[train:], sells[train:], lambda i: rules[train + i], fill
    )
    return {"windows": windows, "account": stitched}
