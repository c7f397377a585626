"""The walk of one account over the times of many symbols, in the order of docs/engine.md 4."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.backtest.exits import NONE, OPEN, SIGNAL, TIME, exit_at_open, exit_inside
from coin_hts_pipelines.backtest.sizing import RISK, sized
from coin_hts_pipelines.kernels import kernel

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Walked = tuple[IntArray, FloatArray, IntArray, BoolArray]

SKIPPED = ("blocked", "no_place", "no_cash")
_BLOCKED, _NO_PLACE, _NO_CASH = range(3)
_NEVER = np.iinfo(np.int64).max
_DAY_US = 86_400_000_000
# What rounding leaves of cash that was all spent: it buys nothing.
_DUST = 1e-9


class Market(NamedTuple):
    """Bars and signals of all symbols, one symbol behind the other: symbol s has rows `first[s] .. first[s+1]-1`.

    `sell` and `ranges` (what `sized` needs for a volatility target) are empty when they are not used.
    """

    first: IntArray
    time: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    buy: BoolArray
    confidence: FloatArray
    sell: BoolArray
    ranges: FloatArray


class Rules(NamedTuple):
    """The request as the kernel reads it: `hold` (S,) in bars, 0 where an exit or the loss limit is off."""

    hold: IntArray
    stop_loss: float
    take_profit: float
    trailing_stop: float
    size_kind: int
    size_value: float
    fee: float
    slippage: float
    next_open: bool
    max_positions: int
    loss_limit: float


class Account(NamedTuple):
    """What is carried from time to time.

    Per symbol: number of its last bar, its open trade (-1: none), the first bar whose signal counts, highest price
    since the entry, last close. `cash` and `day_start` (start of the loss limit), `equity`, `paid` (fees, slippage),
    `day`, `blocked`, `trades`, `positions` and `skipped` are arrays of one or of a few numbers.
    """

    bar: IntArray
    trade: IntArray
    free: IntArray
    peak: FloatArray
    close: FloatArray
    cash: FloatArray
    equity: FloatArray
    day_start: FloatArray
    paid: FloatArray
    day: IntArray
    blocked: BoolArray
    trades: IntArray
    positions: IntArray
    skipped: IntArray


class Book(NamedTuple):
    """Columns of `PortfolioTrades` without the times."""

    symbol: IntArray
    entry_bar: IntArray
    exit_bar: IntArray
    entry_price: FloatArray
    exit_price: FloatArray
    quantity: FloatArray
    fees: FloatArray
    pnl: FloatArray
    reason: npt.NDArray[np.int8]


def new_account(symbols: int, cash: float) -> Account:
    """Account before the first time; it has no day yet."""
    return Account(
        bar=np.full(symbols, -1, dtype=np.int64),
        trade=np.full(symbols, -1, dtype=np.int64),
        free=np.zeros(symbols, dtype=np.int64),
        peak=np.zeros(symbols),
        close=np.zeros(symbols),
        cash=np.array([cash]),
        equity=np.array([cash]),
        day_start=np.array([cash]),
        paid=np.zeros(2),
        day=np.array([_NEVER]),
        blocked=np.zeros(1, dtype=np.bool_),
        trades=np.zeros(1, dtype=np.int64),
        positions=np.zeros(1, dtype=np.int64),
        skipped=np.zeros(len(SKIPPED), dtype=np.int64),
    )


def new_book(trades: int) -> Book:
    """Room for so many trades."""
    symbol, entry_bar, exit_bar = np.empty((3, trades), dtype=np.int64)
    entry_price, exit_price, quantity, fees, pnl = np.empty((5, trades))
    reason = np.empty(trades, dtype=np.int8)
    return Book(symbol, entry_bar, exit_bar, entry_price, exit_price, quantity, fees, pnl, reason)


@kernel
def _worth(cash: float, positions: int, trade: IntArray, quantity: FloatArray, close: FloatArray) -> float:
    """Cash and positions at their last closes."""
    value, missing = cash, positions
    for s in range(len(trade)):
        if missing == 0:
            break
        if trade[s] >= 0:
            value += quantity[trade[s]] * close[s]
            missing -= 1
    return value


@kernel
def _levels(rules: Rules, entry: float, peak: float) -> tuple[float, float, float]:
    """Stop, trail and target of a position; infinitely far where a rule is off."""
    stop = entry * (1 - rules.stop_loss) if rules.stop_loss > 0 else -np.inf
    trail = peak * (1 - rules.trailing_stop) if rules.trailing_stop > 0 else -np.inf
    target = entry * (1 + rules.take_profit) if rules.take_profit > 0 else np.inf
    return stop, trail, target


@kernel
def _sell(rules: Rules, account: Account, book: Book, s: int, price: float, reason: int) -> None:
    k = account.trade[s]
    quantity, entry_fee = book.quantity[k], book.fees[k]
    fill = price * (1 - rules.slippage)
    exit_fee = quantity * fill * rules.fee
    received = quantity * fill - exit_fee
    account.cash[0] += received
    account.paid[0] += exit_fee
    account.paid[1] += quantity * abs(fill - price)
    book.exit_bar[k], book.exit_price[k], book.reason[k] = account.bar[s], fill, reason
    book.pnl[k] = received - (quantity * book.entry_price[k] + entry_fee)
    book.fees[k] = entry_fee + exit_fee
    account.trade[s] = -1
    account.free[s] = account.bar[s] + 1
    account.positions[0] -= 1


@kernel
def _enter(
    market: Market, rules: Rules, account: Account, book: Book, wanted: IntArray, confidence: FloatArray
) -> bool:
    """Entries of one moment: `wanted` are symbols in alphabetical order; returned is whether anything was bought."""
    base = _worth(account.cash[0], account.positions[0], account.trade, book.quantity, account.close)
    if rules.loss_limit > 0 and base <= account.day_start[0] * (1 - rules.loss_limit):
        account.blocked[0] = True
    if len(wanted) == 0:
        return False
    if account.blocked[0] or account.positions[0] >= rules.max_positions:
        account.skipped[_BLOCKED if account.blocked[0] else _NO_PLACE] += len(wanted)
        return False
    # A sort for one signal would be most of the walk.
    order = np.argsort(-confidence, kind="mergesort") if len(wanted) > 1 else np.zeros(1, np.int64)
    bought = False
    for place in order:
        if account.positions[0] >= rules.max_positions:
            account.skipped[_NO_PLACE] += 1
            continue
        if account.cash[0] <= _DUST * base:
            account.skipped[_NO_CASH] += 1
            continue
        s, k = wanted[place], account.trades[0]
        row = market.first[s] + account.bar[s]
        price = market.open[row] if rules.next_open else market.close[row]
        range_ = market.ranges[row - 1 if rules.next_open else row] if rules.size_kind == RISK else 0.0
        entry = price * (1 + rules.slippage)
        quantity, account.cash[0] = sized(
            rules.size_kind, rules.size_value, base, account.cash[0], entry * (1 + rules.fee), range_
        )
        entry_fee = quantity * entry * rules.fee
        account.paid[0] += entry_fee
        account.paid[1] += quantity * abs(entry - price)
        book.symbol[k], book.entry_bar[k], book.exit_bar[k] = s, account.bar[s], -1
        book.entry_price[k], book.exit_price[k], book.quantity[k] = entry, np.nan, quantity
        book.fees[k], book.pnl[k], book.reason[k] = entry_fee, np.nan, OPEN
        account.trade[s], account.peak[s] = k, entry
        account.trades[0] += 1
        account.positions[0] += 1
        bought = True
    return bought


@kernel
def walk_times(market: Market, rules: Rules, account: Account, book: Book, steps: int) -> Walked:
    """Work the next `steps` times, fewer at the end of the bars; `account` and `book` are carried on.

    Returned are, per time: itself, equity, positions after it, and whether anything was held at any moment.
    """
    symbols, sells, risk = len(rules.hold), len(market.sell) > 0, rules.size_kind == RISK
    times, equity = np.empty(steps, np.int64), np.empty(steps)
    positions, busy = np.empty(steps, np.int64), np.empty(steps, np.bool_)
    here = np.empty(symbols, np.bool_)
    wanted, confidence = np.empty(symbols, np.int64), np.empty(symbols)
    delay = 1 if rules.next_open else 0
    for step in range(steps):
        now = _NEVER
        for s in range(symbols):
            row = market.first[s] + account.bar[s] + 1
            if row < market.first[s + 1]:
                now = min(now, market.time[row])
        if now == _NEVER:
            return times[:step], equity[:step], positions[:step], busy[:step]
        if now // _DAY_US != account.day[0]:
            account.day[0], account.day_start[0], account.blocked[0] = now // _DAY_US, account.equity[0], False
        held = account.positions[0] > 0
        for phase in range(2):
            # Phase 0: exits at the open, entries there. Phase 1: exits inside the bar and at the close, entries there.
            count = 0
            for s in range(symbols):
                row = market.first[s] + account.bar[s]
                if phase == 0:
                    here[s] = row + 1 < market.first[s + 1] and market.time[row + 1] == now
                    if here[s]:
                        account.bar[s] += 1
                        row += 1
                if not here[s]:
                    continue
                k = account.trade[s]
                if phase == 1:
                    account.close[s] = market.close[row]
                if k >= 0:
                    stop, trail, target = _levels(rules, book.entry_price[k], account.peak[s])
                    if phase == 1:
                        price, reason = exit_inside(market.high[row], market.low[row], stop, trail, target)
                        if reason == NONE and not rules.next_open and sells and market.sell[row]:
                            price, reason = market.close[row], SIGNAL
                        if reason == NONE and account.bar[s] == book.entry_bar[k] + rules.hold[s]:
                            price, reason = market.close[row], TIME
                        account.peak[s] = max(account.peak[s], market.high[row])
                    elif rules.next_open and sells and market.sell[row - 1]:
                        price, reason = market.open[row], SIGNAL
                    else:
                        price, reason = exit_at_open(market.open[row], stop, trail, target)
                    if reason != NONE:
                        _sell(rules, account, book, s, price, reason)
                elif (phase == 0) == rules.next_open and account.bar[s] - delay >= account.free[s]:
                    signal = row - delay
                    if market.buy[signal] and not (risk and np.isnan(market.ranges[signal])):
                        wanted[count], confidence[count] = s, market.confidence[signal]
                        count += 1
            if (phase == 0) == rules.next_open and (count > 0 or rules.loss_limit > 0):
                held |= _enter(market, rules, account, book, wanted[:count], confidence[:count])
        account.equity[0] = _worth(account.cash[0], account.positions[0], account.trade, book.quantity, account.close)
        times[step], equity[step] = now, account.equity[0]
        positions[step], busy[step] = account.positions[0], held
    return times, equity, positions, busy


@kernel
def account_values(
    equity: FloatArray, positions: IntArray, busy: BoolArray, initial_cash: float, drawdown: FloatArray
) -> FloatArray:
    """What `metric_values` needs of the account, summed in the order of `walk_account`; `drawdown` (n,) is filled."""
    n = len(equity)
    previous, peak, lowest = initial_cash, initial_cash, 0.0
    total, downside = 0.0, 0.0
    held, exposed, below, longest = 0, 0, 0, 0
    for i in range(n):
        value = equity[i]
        change = value / previous - 1
        total += change
        held += busy[i]
        exposed += positions[i] > 0
        if change < 0:
            downside += change * change
        if value >= peak:
            peak, below = value, 0
        else:
            below += 1
            longest = max(longest, below)
        drawdown[i] = value / peak - 1
        lowest = min(lowest, drawdown[i])
        previous = value
    mean = total / n
    squares = (n - held) * mean * mean
    previous = initial_cash
    for i in range(n):
        if busy[i]:
            squares += (equity[i] / previous - 1 - mean) ** 2
        previous = equity[i]
    return np.array([previous, mean, squares, downside / n, lowest, longest, exposed])
