"""The portfolio: what one account would have done with the signals, bar by bar (SPEC 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.kernels import kernel
from coin_hts_pipelines.market.candles import CandleArrays

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

REASONS = ("stop_loss", "take_profit", "trailing_stop", "signal", "time", "open")
_STOP, _TARGET, _TIME, _OPEN = 0, 1, 4, 5


@dataclass(frozen=True)
class Portfolio:
    """Trades (arrays of length t, the open one last) and the account per bar (arrays of length n).

    Prices are fills in the quote, `reason` indexes `REASONS`; of an open trade `exit_bar` is -1 and `exit_price`
    and `pnl` are NaN. `equity` is after all fills of the bar; `drawdown` a fraction <= 0 from the running maximum,
    which starts at the cash.
    """

    entry_bar: IntArray
    exit_bar: IntArray
    entry_price: FloatArray
    exit_price: FloatArray
    quantity: FloatArray
    fees: FloatArray
    pnl: FloatArray
    reason: npt.NDArray[np.int8]
    equity: FloatArray
    drawdown: FloatArray
    exposed_bars: int
    fees_paid: float
    slippage_paid: float
    longest_drawdown: int


@kernel
def _simulate(
    opens: FloatArray,
    highs: FloatArray,
    lows: FloatArray,
    closes: FloatArray,
    buy: BoolArray,
    hold: int,
    stop_loss: float,
    take_profit: float,
    fee: float,
    slippage: float,
    initial_cash: float,
    next_open: bool,
) -> tuple[
    IntArray, IntArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, npt.NDArray[np.int8],
    FloatArray, FloatArray, int, float, float, int,
]:  # fmt: skip
    n = len(closes)
    # A position keeps every other entry off until the bar after its exit, so there are at most n // 2 + 1 trades
    # with fills at the close, and n with fills at the open (in and out on one bar).
    most = int(buy.sum())
    entry_bars, exit_bars = np.empty(most, np.int64), np.full(most, -1, np.int64)
    entries, exits = np.empty(most), np.full(most, np.nan)
    quantities, fees, pnls = np.empty(most), np.empty(most), np.full(most, np.nan)
    reasons = np.full(most, _OPEN, np.int8)
    equity, drawdown = np.empty(n), np.empty(n)
    cash, quantity, entry, entry_bar = initial_cash, 0.0, 0.0, -1
    stop, target = -np.inf, np.inf
    trades, exposed = 0, 0
    fees_paid, slippage_paid = 0.0, 0.0
    peak, below, longest = initial_cash, 0, 0
    holding, pending = False, False
    for i in range(n):
        held_at_open = holding
        busy = holding
        if pending:
            pending = False
            price = opens[i]
            entry = price * (1 + slippage)
            quantity = cash / (entry * (1 + fee))
            holding = busy = True
            entry_bar = i
            entry_bars[trades], entries[trades], quantities[trades] = i, entry, quantity
            fees[trades] = quantity * entry * fee
            fees_paid += fees[trades]
            slippage_paid += quantity * abs(entry - price)
            cash = 0.0
            stop, target = entry * (1 - stop_loss), entry * (1 + take_profit)
        if holding and (held_at_open or next_open):
            price, reason = 0.0, -1
            if held_at_open and stop_loss > 0 and opens[i] <= stop:
                price, reason = opens[i], _STOP
            elif held_at_open and take_profit > 0 and opens[i] >= target:
                price, reason = opens[i], _TARGET
            elif stop_loss > 0 and lows[i] <= stop:
                price, reason = stop, _STOP
            elif take_profit > 0 and highs[i] >= target:
                price, reason = target, _TARGET
            elif i - entry_bar == hold:
                price, reason = closes[i], _TIME
            if reason >= 0:
                fill = price * (1 - slippage)
                exit_fee = quantity * fill * fee
                cash = quantity * fill - exit_fee
                exit_bars[trades], exits[trades], reasons[trades] = i, fill, reason
                pnls[trades] = cash - (quantity * entry + fees[trades])
                fees[trades] += exit_fee
                fees_paid += exit_fee
                slippage_paid += quantity * abs(fill - price)
                quantity = 0.0
                holding = False
                trades += 1
        if buy[i] and not busy:
            if next_open:
                pending = True
            else:
                price = closes[i]
                entry = price * (1 + slippage)
                quantity = cash / (entry * (1 + fee))
                holding = True
                entry_bar = i
                entry_bars[trades], entries[trades], quantities[trades] = i, entry, quantity
                fees[trades] = quantity * entry * fee
                fees_paid += fees[trades]
                slippage_paid += quantity * abs(entry - price)
                cash = 0.0
                stop, target = entry * (1 - stop_loss), entry * (1 + take_profit)
        exposed += holding
        equity[i] = cash + quantity * closes[i]
        peak = max(peak, equity[i])
        drawdown[i] = equity[i] / peak - 1
        below = below + 1 if equity[i] < peak else 0
        longest = max(longest, below)
    if holding:
        trades += 1
    return (
        entry_bars[:trades], exit_bars[:trades], entries[:trades], exits[:trades], quantities[:trades],
        fees[:trades], pnls[:trades], reasons[:trades], equity, drawdown, exposed, fees_paid, slippage_paid, longest,
    )  # fmt: skip


def simulate(candles: CandleArrays, buy: BoolArray, hold: int, request: BacktestRequest) -> Portfolio:
    """Run the account over validated candles; `buy` has one flag a bar, `hold` is in bars."""
    return Portfolio(
        *_simulate(
            candles.open,
            candles.high,
            candles.low,
            candles.close,
            buy,
            hold,
            request.exits.stop_loss or 0.0,
            request.exits.take_profit or 0.0,
            request.costs.fee_rate,
            request.costs.slippage_rate,
            request.initial_cash,
            request.fill == "next_open",
        )
    )
