"""docs/engine.md 4 once more, as literally and slowly as the page reads; it imports nothing of the package."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from coin_hts_pipelines_tests.engine_oracle import wilder
from coin_hts_pipelines_tests.oracle import NAN, Bars, Row, drawdowns, mean, metrics_of

INF = math.inf


class Symbol:
    """One symbol: its bars and signals, and what the account did with it so far."""

    def __init__(
        self, bars: Bars, buys: list[bool], sells: list[bool], confidence: list[float], hold: int, atr_window: int
    ) -> None:
        self.bars, self.buys, self.sells, self.confidence, self.hold = bars, buys, sells, confidence, hold
        self.ranges = wilder(bars, atr_window)
        self.bar_at = {stamp: i for i, stamp in enumerate(bars.time)}
        self.held_on: set[int] = set()
        self.trade: Row | None = None
        self.last_close = NAN


class Times:
    """What the metrics of SPEC 4.3 ask of a frame: how many rows, and the first and last close."""

    def __init__(self, n: int, growth: float) -> None:
        self.n, self.close = n, [1.0, 1.0 + growth]


def portfolio(
    symbols: dict[str, Row],
    *,
    max_positions: int,
    daily_loss_limit: float | None = None,
    fill: str = "close",
    fee_rate: float = 0.001,
    slippage_rate: float = 0.0002,
    stop_loss: float | None = None,
    take_profit: float | None = None,
    trailing_stop: float | None = None,
    sizing: Row | None = None,
    initial_cash: float = 10_000_000.0,
) -> Row:
    """Trades, equity, counts and costs of fills; `symbols` has `bars buys sells confidence hold` of each."""
    sizing = sizing or {}
    next_open = fill == "next_open"
    every = {name: Symbol(**symbols[name], atr_window=sizing.get("atr_window", 14)) for name in sorted(symbols)}
    cash = initial_cash
    trades: list[Row] = []
    rows: list[Row] = []
    skipped = {"blocked": 0, "no_place": 0, "no_cash": 0}
    paid = {"fees_paid": 0.0, "slippage_paid": 0.0}
    blocked_day: Any = None

    def worth() -> float:
        return cash + sum(one.trade["quantity"] * one.last_close for one in every.values() if one.trade)

    def levels(one: Symbol, i: int) -> tuple[float, str, float]:
        """Floor, its reason and target on bar i."""
        assert one.trade is not None
        entry, entry_bar = one.trade["entry_price"], one.trade["entry_bar"]
        counted = [one.bars.high[j] for j in range(entry_bar + (0 if next_open else 1), i)]
        trail = -INF if trailing_stop is None else max([entry, *counted]) * (1 - trailing_stop)
        stop = -INF if stop_loss is None else entry * (1 - stop_loss)
        target = INF if take_profit is None else entry * (1 + take_profit)
        return (trail, "trailing_stop", target) if trail > stop else (stop, "stop_loss", target)

    def sell(one: Symbol, now: datetime, i: int, price: float, reason: str) -> None:
        nonlocal cash
        assert one.trade is not None
        filled = price * (1 - slippage_rate)
        quantity = one.trade["quantity"]
        fee = quantity * filled * fee_rate
        cash += quantity * filled - fee
        paid["fees_paid"] += fee
        paid["slippage_paid"] += quantity * abs(filled - price)
        spent = quantity * one.trade["entry_price"] * (1 + fee_rate)
        one.trade["pnl"] = quantity * filled - fee - spent
        one.trade["return_pct"] = one.trade["pnl"] / spent * 100
        one.trade["fees"] += fee
        one.trade |= {
            "exit_bar": i, "exit_timestamp": now, "exit_price": filled, "reason": reason, "status": "closed",
        }  # fmt: skip
        one.trade = None

    def quantity_for(one: Symbol, signal_bar: int, unit: float, base: float) -> float:
        if "fraction" in sizing:
            return min(sizing["fraction"] * base, cash) / unit
        if "amount" in sizing:
            return min(sizing["amount"], cash) / unit
        if "risk" in sizing:
            move = sizing.get("atr_multiple", 2.0) * one.ranges[signal_bar]
            return min(sizing["risk"] * base / move if move > 0 else INF, cash / unit)
        return min(base / max_positions, cash) / unit

    def enter(now: datetime, signals: list[tuple[str, int]], base: float, blocked: bool) -> None:
        """Signals as (symbol, bar of the signal)."""
        nonlocal cash
        for name, signal_bar in sorted(signals, key=lambda pair: (-every[pair[0]].confidence[pair[1]], pair[0])):
            one = every[name]
            if "risk" in sizing and math.isnan(one.ranges[signal_bar]):
                continue
            if blocked:
                skipped["blocked"] += 1
            elif sum(other.trade is not None for other in every.values()) == max_positions:
                skipped["no_place"] += 1
            elif cash <= 1e-9 * base:
                skipped["no_cash"] += 1
            else:
                i = one.bar_at[now]
                price = one.bars.open[i] if next_open else one.bars.close[i]
                entry = price * (1 + slippage_rate)
                quantity = quantity_for(one, signal_bar, entry * (1 + fee_rate), base)
                fee = quantity * entry * fee_rate
                cash -= quantity * entry + fee
                paid["fees_paid"] += fee
                paid["slippage_paid"] += quantity * abs(entry - price)
                one.held_on.add(i)
                one.trade = {
                    "symbol": name, "entry_bar": i, "exit_bar": None, "entry_timestamp": now, "exit_timestamp": None,
                    "entry_price": entry, "exit_price": NAN, "quantity": quantity, "fees": fee, "pnl": NAN,
                    "return_pct": NAN, "reason": "open", "status": "open",
                }  # fmt: skip
                trades.append(one.trade)

    def blocked_on(now: datetime, base: float) -> bool:
        nonlocal blocked_day
        earlier = [row["equity"] for row in rows if row["timestamp"].date() < now.date()]
        start = earlier[-1] if earlier else initial_cash
        if daily_loss_limit is not None and base <= start * (1 - daily_loss_limit):
            blocked_day = now.date()
        return blocked_day == now.date()

    for now in sorted({stamp for one in every.values() for stamp in one.bars.time}):
        here = {name: one.bar_at[now] for name, one in every.items() if now in one.bar_at}
        for name, i in here.items():
            one = every[name]
            if one.trade is None:
                continue
            one.held_on.add(i)
            floor, why, target = levels(one, i)
            if next_open and one.sells[i - 1]:
                sell(one, now, i, one.bars.open[i], "signal")
            elif one.bars.open[i] <= floor:
                sell(one, now, i, one.bars.open[i], why)
            elif one.bars.open[i] >= target:
                sell(one, now, i, one.bars.open[i], "take_profit")
        if next_open:
            base = worth()
            wanted = [
                (name, i - 1) for name, i in here.items()
                if i > 0 and every[name].buys[i - 1] and i - 1 not in every[name].held_on
            ]  # fmt: skip
            enter(now, wanted, base, blocked_on(now, base))
        for name, i in here.items():
            one = every[name]
            one.last_close = one.bars.close[i]
            if one.trade is None:
                continue
            floor, why, target = levels(one, i)
            if one.bars.low[i] <= floor:
                sell(one, now, i, floor, why)
            elif one.bars.high[i] >= target:
                sell(one, now, i, target, "take_profit")
            elif not next_open and one.sells[i]:
                sell(one, now, i, one.bars.close[i], "signal")
            elif i == one.trade["entry_bar"] + one.hold:
                sell(one, now, i, one.bars.close[i], "time")
        if not next_open:
            base = worth()
            wanted = [(name, i) for name, i in here.items() if every[name].buys[i] and i not in every[name].held_on]
            enter(now, wanted, base, blocked_on(now, base))
        held = sum(one.trade is not None for one in every.values())
        rows.append({"timestamp": now, "equity": worth(), "positions": held})

    for row, fall in zip(rows, drawdowns([row["equity"] for row in rows], initial_cash), strict=True):
        row["drawdown"] = fall
    return {"trades": trades, "equity": rows, "skipped": skipped, "paid": paid}


def metrics(
    trades: list[Row], rows: list[Row], paid: Row, every: list[Bars], *, timeframe: str, initial_cash: float
) -> Row:
    """Metrics of a trades table, an equity table, what fills cost and the bars of all symbols."""
    equity = [row["equity"] for row in rows]
    held_after = [row["positions"] > 0 for row in rows]
    times: Any = Times(len(rows), mean([bars.close[-1] / bars.close[0] - 1 for bars in every]))
    return metrics_of(times, trades, equity, held_after, paid, timeframe, initial_cash)
