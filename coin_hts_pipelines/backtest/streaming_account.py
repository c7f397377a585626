"""The account of a stream: what one bar changes (SPEC 4.2, docs/engine.md 2 and 3).

`portfolio.walk_trades` turned inside out: that jumps from signal to signal over whole arrays, this takes bar after bar.
Every amount comes from the same operations in the same order, so that the bits are the same.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coin_hts_pipelines.backtest.exits import NONE, OPEN, REASONS, SIGNAL, TIME, exit_at_open, exit_inside
from coin_hts_pipelines.backtest.portfolio import Portfolio, walk_account
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.backtest.sizing import RISK, sized, sizing_values
from coin_hts_pipelines.market.candles import candle_arrays, empty_candles

FloatArray = npt.NDArray[np.float64]

# The rules as Python runs them: calling the compiled ones costs more than their few comparisons.
_exit_at_open: Any = getattr(exit_at_open, "py_func", exit_at_open)
_exit_inside: Any = getattr(exit_inside, "py_func", exit_inside)


class Fill(NamedTuple):
    """One fill: side (`BUY`, `SELL`), price after slippage and fee in the quote, quantity in the base asset.

    `reason` is one of `exits.REASONS`; a BUY's is `signal`.
    """

    side: str
    price: float
    quantity: float
    fee: float
    reason: str


@dataclass(slots=True)
class Position:
    """A held position: bar and price of the entry fill, quantity, cash not spent, entry fee, highest price since."""

    entry_bar: int
    entry: float
    quantity: float
    idle: float
    fee: float
    peak: float


class StreamAccount:
    """Cash, position and, unless `trades` is None, the closed trades of one request; `step` takes the next bar.

    `close` and `sell` are those of the bar before, `ordered` that it gave a BUY to be filled at this open, of the
    priced-in move `ordered_move`; `average` is the running average true range.
    """

    _SAVED = ("cash", "equity", "fees_paid", "slippage_paid", "average", "close", "sell", "ordered", "ordered_move")

    def __init__(self, request: BacktestRequest) -> None:
        self.fee, self.slippage = request.costs.fee_rate, request.costs.slippage_rate
        self.stop_loss, self.take_profit, self.trailing = request.exits.levels()
        self.signal_exit, self.next_open = request.exits.signal_exit, request.fill == "next_open"
        self.guarded = max(request.exits.levels()) > 0
        self.hold = int(request.full_params["hold_period_bars"])
        self.kind, self.value, _ = sizing_values(request.sizing, candle_arrays(empty_candles()))
        self.window = request.sizing.atr_window if request.sizing else 0
        self.multiple = request.sizing.atr_multiple if request.sizing else 0.0
        self.cash = self.equity = request.initial_cash
        self.fees_paid = self.slippage_paid = 0.0
        self.average = self.close = 0.0
        self.sell = self.ordered = False
        self.ordered_move = 0.0
        self.position: Position | None = None
        self.trades: list[tuple[float, ...]] | None = []

    def step(
        self, bar: int, open_: float, high: float, low: float, close: float, buy: bool, sell: bool
    ) -> tuple[Fill, ...]:
        """Work one bar; `buy` and `sell` are its signals."""
        fills: tuple[Fill, ...] = ()
        move = self._move(bar, high, low) if self.kind == RISK else 0.0
        self.close = close
        if self.ordered:
            fills = (self._buy(bar, open_, self.ordered_move),)
            self.ordered = False
        position = self.position
        if position is None:
            if buy and move == move:  # noqa: PLR0124 - not NaN
                if self.next_open:
                    self.ordered, self.ordered_move = True, move
                else:
                    fills = (self._buy(bar, close, move),)
                    position = self.position
        else:
            price, reason = self._exit(bar, position, open_, high, low, close, sell)
            if reason != NONE:
                fills = (*fills, self._sell(bar, position, price, reason))
                position = None
        self.sell = sell
        self.equity = self.cash if position is None else position.idle + position.quantity * close
        return fills

    def _move(self, bar: int, high: float, low: float) -> float:
        """Priced-in move of `sized`, NaN before bar `window`: `sizing.average_true_range`, one bar further."""
        if bar > 0:
            window, before = self.window, self.close
            true_range = max(high, before) - min(low, before)
            self.average = (
                self.average + true_range if bar <= window else (self.average * (window - 1) + true_range) / window
            )
            if bar == window:
                self.average /= window
        return self.multiple * self.average if bar >= self.window else math.nan

    def _exit(
        self, bar: int, position: Position, open_: float, high: float, low: float, close: float, sell: bool
    ) -> tuple[float, int]:
        """Price and reason of the sale on this bar in the order of docs/engine.md 2; reason `NONE` without one."""
        if self.next_open and self.sell and self.signal_exit and bar > position.entry_bar:
            return open_, SIGNAL
        if self.guarded:
            stop, target, trail = -math.inf, math.inf, -math.inf
            if self.stop_loss > 0:
                stop = position.entry * (1 - self.stop_loss)
            if self.take_profit > 0:
                target = position.entry * (1 + self.take_profit)
            if self.trailing > 0:
                trail = position.peak * (1 - self.trailing)
                position.peak = max(position.peak, high)
            if bar > position.entry_bar:
                price, reason = _exit_at_open(open_, stop, trail, target)
                if reason != NONE:
                    return price, reason
            price, reason = _exit_inside(high, low, stop, trail, target)
            if reason != NONE:
                return price, reason
        if sell and self.signal_exit and not self.next_open:
            return close, SIGNAL
        if bar == position.entry_bar + self.hold:
            return close, TIME
        return 0.0, NONE

    def _buy(self, bar: int, price: float, move: float) -> Fill:
        entry = price * (1 + self.slippage)
        quantity, idle = sized(self.kind, self.value, self.cash, self.cash, entry * (1 + self.fee), move)
        fee = quantity * entry * self.fee
        self.fees_paid += fee
        self.slippage_paid += quantity * abs(entry - price)
        self.position = Position(bar, entry, quantity, idle, fee, entry)
        return Fill("BUY", entry, quantity, fee, REASONS[SIGNAL])

    def _sell(self, bar: int, position: Position, price: float, reason: int) -> Fill:
        quantity, entry = position.quantity, position.entry
        fill = price * (1 - self.slippage)
        fee = quantity * fill * self.fee
        received = quantity * fill - fee
        self.cash = position.idle + received
        self.fees_paid += fee
        self.slippage_paid += quantity * abs(fill - price)
        self.position = None
        if self.trades is not None:
            pnl = received - (quantity * entry + position.fee)
            fees = position.fee + fee
            self.trades.append(
                (position.entry_bar, bar, entry, fill, quantity, fees, pnl, reason, position.idle, self.cash)
            )
        return Fill("SELL", fill, quantity, fee, REASONS[reason])

    def portfolio(self, close: FloatArray, equity: FloatArray, initial_cash: float) -> Portfolio:
        """All trades, the open one last, and the account per bar."""
        rows = list(self.trades or ())
        if (held := self.position) is not None:
            nan = math.nan
            rows.append((held.entry_bar, -1, held.entry, nan, held.quantity, held.fee, nan, OPEN, held.idle, nan))
        columns = np.array(rows, dtype=np.float64).reshape(-1, 10).T.copy()
        entry_bar, exit_bar = columns[0].astype(np.int64), columns[1].astype(np.int64)
        entry, exit_, quantity, fees, pnl = columns[2:7]
        reason, idle, proceeds = columns[7].astype(np.int8), columns[8], columns[9]
        paid, none = np.array([self.fees_paid, self.slippage_paid]), np.empty(0)
        account = walk_account(
            close, entry_bar, exit_bar, quantity, idle, proceeds, initial_cash, none, none, np.empty(len(close))
        )
        drawdown = equity / np.maximum.accumulate(np.maximum(equity, initial_cash)) - 1
        return Portfolio(
            entry_bar, exit_bar, entry, exit_, quantity, fees, pnl, reason, idle, proceeds, paid, account, equity,
            drawdown,
        )  # fmt: skip

    def saved(self) -> dict[str, Any]:
        """Plain JSON values."""
        held = None if self.position is None else asdict(self.position)
        return {**{name: getattr(self, name) for name in self._SAVED}, "position": held}

    def restored(self, document: dict[str, Any]) -> None:
        """Take over what `saved` gave."""
        for name in self._SAVED:
            setattr(self, name, document[name])
        self.position = None if document["position"] is None else Position(**document["position"])
