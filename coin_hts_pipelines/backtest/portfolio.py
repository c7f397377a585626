"""The portfolio: what one account would have done with the signals (SPEC 4.2).

Two passes: the trades, which jump from signal to signal, and the account, which is worked bar by bar only while a
position is held and filled in between. A sweep needs no arrays of the account and asks for its statistics alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.backtest.exits import NONE, OPEN, SIGNAL, TIME, exit_at_open, exit_inside
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.backtest.sizing import RISK, sized, sizing_values
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Trades = tuple[
    IntArray, IntArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, npt.NDArray[np.int8], FloatArray,
    FloatArray, FloatArray,
]  # fmt: skip


@dataclass(frozen=True)
class Portfolio:
    """Trades (arrays of length t, the open one last) and the account per bar (arrays of length n).

    Prices are fills in the quote, `reason` indexes `exits.REASONS`; of an open trade `exit_bar` is -1 and
    `exit_price` and `pnl` are NaN. `idle` is the cash not spent, `proceeds` the cash after the exit. `equity` is after
    all fills of the bar; `drawdown` a fraction <= 0 from the running maximum, which starts at the cash. `account` and
    `paid` are what `metrics` needs.
    """

    entry_bar: IntArray
    exit_bar: IntArray
    entry_price: FloatArray
    exit_price: FloatArray
    quantity: FloatArray
    fees: FloatArray
    pnl: FloatArray
    reason: npt.NDArray[np.int8]
    idle: FloatArray
    proceeds: FloatArray
    paid: FloatArray
    account: FloatArray
    equity: FloatArray
    drawdown: FloatArray


@kernel
def walk_trades(
    opens: FloatArray,
    highs: FloatArray,
    lows: FloatArray,
    closes: FloatArray,
    signals: IntArray,
    sell: BoolArray,
    rules: FloatArray,
    rule_of: IntArray,
    size_kind: int,
    size_value: float,
    ranges: FloatArray,
    fee: float,
    slippage: float,
    cash: float,
    next_open: bool,
) -> Trades:
    """Trades of the account in order; the last array holds the fees and the slippage paid on all fills.

    `signals` are the bars that buy; `sell` (n,) is empty without SELL signals. `rules` (r, 4) holds holding period,
    stop loss, take profit and trailing stop, 0 where one is off; `rule_of` is the row of each signal, empty when
    there is one row. `ranges` (n,) is what `sized` needs for a volatility target, otherwise empty.
    """
    n, most, sells = len(closes), len(signals), len(sell) > 0
    entry_bars, exit_bars = np.empty(most, np.int64), np.full(most, -1, np.int64)
    entries, exits = np.empty(most), np.full(most, np.nan)
    quantities, fees, pnls = np.empty(most), np.empty(most), np.full(most, np.nan)
    reasons, proceeds = np.full(most, OPEN, np.int8), np.full(most, np.nan)
    idles, paid = np.empty(most), np.zeros(2)
    trades, free = 0, 0
    for s in range(most):
        bar = signals[s]
        if bar < free:
            continue
        entry_bar = bar + 1 if next_open else bar
        if entry_bar >= n:
            break
        range_ = ranges[bar] if size_kind == RISK else 0.0
        if np.isnan(range_):
            continue
        rule = rules[rule_of[s] if len(rule_of) > 0 else 0]
        hold, stop_loss, take_profit, trailing = int(rule[0]), rule[1], rule[2], rule[3]
        price = opens[entry_bar] if next_open else closes[entry_bar]
        entry = price * (1 + slippage)
        quantity, idle = sized(size_kind, size_value, cash, cash, entry * (1 + fee), range_)
        entry_fee = quantity * entry * fee
        paid[0] += entry_fee
        paid[1] += quantity * abs(entry - price)
        entry_bars[trades], entries[trades], idles[trades] = entry_bar, entry, idle
        quantities[trades], fees[trades] = quantity, entry_fee
        price, reason, exit_bar = 0.0, NONE, entry_bar + hold
        if sells or stop_loss > 0 or take_profit > 0 or trailing > 0:
            stop = entry * (1 - stop_loss) if stop_loss > 0 else -np.inf
            target = entry * (1 + take_profit) if take_profit > 0 else np.inf
            peak, trail = entry, -np.inf
            for i in range(entry_bar if next_open else entry_bar + 1, min(exit_bar, n - 1) + 1):
                if trailing > 0:
                    trail = peak * (1 - trailing)
                    peak = max(peak, highs[i])
                if i > entry_bar:
                    if next_open and sells and sell[i - 1]:
                        price, reason = opens[i], SIGNAL
                    else:
                        price, reason = exit_at_open(opens[i], stop, trail, target)
                if reason == NONE:
                    price, reason = exit_inside(highs[i], lows[i], stop, trail, target)
                if reason == NONE and not next_open and sells and sell[i]:
                    price, reason = closes[i], SIGNAL
                if reason != NONE:
                    exit_bar = i
                    break
        if reason == NONE and exit_bar < n:
            price, reason = closes[exit_bar], TIME
        trades += 1
        if reason == NONE:
            break
        fill = price * (1 - slippage)
        exit_fee = quantity * fill * fee
        received = quantity * fill - exit_fee
        cash = idle + received
        paid[0] += exit_fee
        paid[1] += quantity * abs(fill - price)
        k = trades - 1
        exit_bars[k], exits[k], reasons[k], proceeds[k] = exit_bar, fill, reason, cash
        pnls[k] = received - (quantity * entry + entry_fee)
        fees[k] += exit_fee
        free = exit_bar + 1
    return (
        entry_bars[:trades], exit_bars[:trades], entries[:trades], exits[:trades], quantities[:trades],
        fees[:trades], pnls[:trades], reasons[:trades], idles[:trades], proceeds[:trades], paid,
    )  # fmt: skip


@kernel
def walk_account(
    closes: FloatArray,
    entry_bars: IntArray,
    exit_bars: IntArray,
    quantities: FloatArray,
    idles: FloatArray,
    proceeds: FloatArray,
    initial_cash: float,
    equity: FloatArray,
    drawdown: FloatArray,
    returns: FloatArray,
) -> FloatArray:
    """Work the account bar by bar where a position is held.

    `equity` and `drawdown` are filled unless they are empty; `returns` (n,) is scratch space. Returned are: final
    equity, mean of the bar returns, their sum of squared deviations, mean square of the negative ones, lowest
    drawdown, longest run of bars below the running maximum, bars with a position.
    """
    n, fill = len(closes), len(equity) > 0
    cash, peak, lowest = initial_cash, initial_cash, 0.0
    previous, total, downside = initial_cash, 0.0, 0.0
    held, exposed, below, longest, at = 0, 0, 0, 0, 0
    for t in range(len(entry_bars) + 1):
        last = t == len(entry_bars)
        first = n if last else entry_bars[t]
        if first > at:
            below = below + first - at if cash < peak else 0
            longest = max(longest, below)
            if fill:
                equity[at:first] = cash
                drawdown[at:first] = cash / peak - 1
        if last:
            break
        quantity, idle, exit_bar = quantities[t], idles[t], exit_bars[t]
        end = exit_bar if exit_bar >= 0 else n - 1
        for i in range(first, end + 1):
            value = proceeds[t] if i == exit_bar else idle + quantity * closes[i]
            change = value / previous - 1
            returns[held] = change
            held += 1
            total += change
            if change < 0:
                downside += change * change
            previous = value
            if value >= peak:
                peak, below = value, 0
            else:
                below += 1
                longest = max(longest, below)
                lowest = min(lowest, value / peak - 1)
            if fill:
                equity[i] = value
                drawdown[i] = value / peak - 1
        exposed += end - first + (0 if exit_bar >= 0 else 1)
        cash = proceeds[t] if exit_bar >= 0 else previous
        at = end + 1
    mean = total / n
    squares = (n - held) * mean * mean
    for k in range(held):
        squares += (returns[k] - mean) ** 2
    return np.array([previous, mean, squares, downside / n, lowest, longest, exposed])


def simulate(candles: CandleArrays, bars: IntArray, sell: BoolArray, hold: int, request: BacktestRequest) -> Portfolio:
    """Run the account over validated candles.

    Parameters
    ----------
    candles
        n bars.
    bars
        The bars that buy, ascending.
    sell
        SELL signals, shape (n,), or empty.
    hold
        Holding period in bars.
    request
        Exits, sizing, costs, cash and fill.
    """
    exits, costs = request.exits, request.costs
    next_open = request.fill == "next_open"
    trades = walk_trades(
        candles.open,
        candles.high,
        candles.low,
        candles.close,
        bars,
        sell if exits.signal_exit else sell[:0],
        np.array([[float(hold), *exits.levels()]]),
        np.empty(0, dtype=np.int64),
        *sizing_values(request.sizing, candles),
        costs.fee_rate,
        costs.slippage_rate,
        request.initial_cash,
        next_open,
    )
    return account_of(candles, trades, request.initial_cash)


def account_of(candles: CandleArrays, trades: Trades, initial_cash: float) -> Portfolio:
    """Work the account bar by bar from what `walk_trades` returned."""
    n = len(candles)
    equity, drawdown = np.empty(n), np.empty(n)
    entry_bar, exit_bar, quantity, idle, proceeds = trades[0], trades[1], trades[4], trades[8], trades[9]
    account = walk_account(
        candles.close, entry_bar, exit_bar, quantity, idle, proceeds, initial_cash, equity, drawdown, np.empty(n)
    )
    return Portfolio(*trades, account, equity, drawdown)
