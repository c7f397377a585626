"""What one account over many symbols yields: its tables, metrics, counts and digests (docs/engine.md 4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.backtest.digest import digest_of
from coin_hts_pipelines.backtest.exits import REASONS
from coin_hts_pipelines.backtest.portfolio_request import PortfolioRequest
from coin_hts_pipelines.market.candles import timestamp_index

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PortfolioTrades:
    """Trades in order of entry, arrays of length t.

    `symbol` indexes the result's symbols, `reason` `exits.REASONS`; bars are the symbol's own, times microseconds
    since the epoch, prices fills in the quote. Of an open trade `exit_bar` is -1, `exit_time` the smallest int64, and
    `exit_price` and `pnl` are NaN.
    """

    symbol: IntArray
    entry_bar: IntArray
    exit_bar: IntArray
    entry_time: IntArray
    exit_time: IntArray
    entry_price: FloatArray
    exit_price: FloatArray
    quantity: FloatArray
    fees: FloatArray
    pnl: FloatArray
    reason: npt.NDArray[np.int8]


@dataclass(frozen=True)
class PortfolioAccount:
    """The account after each time, arrays of length n: time, equity (quote), drawdown (fraction <= 0), positions."""

    time: IntArray
    equity: FloatArray
    drawdown: FloatArray
    positions: IntArray


@dataclass(frozen=True)
class PortfolioResult:
    """Result of one account over S symbols and n times; the frames are made when they are asked for.

    `symbols` are in alphabetical order, `signals` (S,) counts their BUY signals, and `skipped` those that were dropped
    by cause: `blocked`, `no_place`, `no_cash`.
    """

    request: PortfolioRequest
    symbols: tuple[str, ...]
    signals: IntArray
    book: PortfolioTrades
    account: PortfolioAccount
    metrics: dict[str, float]
    skipped: dict[str, int]
    inputs_digest: str

    @cached_property
    def result_digest(self) -> str:
        """SHA-256 over trades, equity and counts: the same on every machine and in every execution mode."""
        columns = {f"trades.{name}": column for name, column in vars(self.book).items()}
        columns |= {f"equity.{name}": column for name, column in vars(self.account).items()}
        header = {"kind": "portfolio result", "layout": 1, "reasons": list(REASONS), "skipped": self.skipped}
        return digest_of({**header, "symbols": list(self.symbols), "signals": self.signals.tolist()}, columns)

    @cached_property
    def trades(self) -> pd.DataFrame:
        """One row a trade in order of entry: `symbol`, then the columns of SPEC 4.4."""
        book = self.book
        done = book.exit_bar >= 0
        spent = book.quantity * book.entry_price * (1 + self.request.backtest.costs.fee_rate)
        return pd.DataFrame(
            {
                "symbol": pd.array(list(self.symbols), dtype="str").take(book.symbol),
                "entry_bar": pd.array(book.entry_bar, dtype="Int64"),
                "exit_bar": pd.arrays.IntegerArray(book.exit_bar.copy(), ~done),
                "entry_timestamp": timestamp_index(book.entry_time),
                "exit_timestamp": timestamp_index(book.exit_time),
                "entry_price": book.entry_price,
                "exit_price": book.exit_price,
                "quantity": book.quantity,
                "fees": book.fees,
                "pnl": book.pnl,
                "return_pct": book.pnl / spent * 100,
                "reason": pd.array(list(REASONS), dtype="str").take(book.reason),
                "status": pd.array(["open", "closed"], dtype="str").take(done.astype(np.int64)),
            }
        )

    @cached_property
    def equity(self) -> pd.DataFrame:
        """One row a time: timestamp, equity (quote), drawdown (fraction <= 0) and positions held after it."""
        account = self.account
        return pd.DataFrame(
            {
                "timestamp": timestamp_index(account.time),
                "equity": account.equity,
                "drawdown": account.drawdown,
                "positions": account.positions,
            }
        )

    @cached_property
    def by_symbol(self) -> pd.DataFrame:
        """One row a symbol: BUY signals, closed trades, their pnl (quote) and win rate (0..1), fees of all fills."""
        book, count = self.book, len(self.symbols)
        done = book.exit_bar >= 0
        closed = np.bincount(book.symbol[done], minlength=count)
        wins = np.bincount(book.symbol[done & (book.pnl > 0)], minlength=count)
        # Of no trades at all bincount counts in integers, weights or not.
        pnl = np.bincount(book.symbol[done], book.pnl[done], count).astype(np.float64)
        fees = np.bincount(book.symbol, book.fees, count).astype(np.float64)
        return pd.DataFrame(
            {
                "symbol": pd.array(list(self.symbols), dtype="str"),
                "signals": self.signals,
                "trades": closed,
                "pnl": pnl,
                "win_rate": np.where(closed > 0, wins / np.maximum(closed, 1), np.nan),
                "fees": fees,
            }
        )
