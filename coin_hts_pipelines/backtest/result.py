"""What a backtest yields: the tables of SPEC 4.4, study, metrics and digests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pandas.arrays import ArrowStringArray, DatetimeArray

from coin_hts_pipelines.backtest.digest import digest_of
from coin_hts_pipelines.backtest.exits import REASONS
from coin_hts_pipelines.backtest.metrics import trade_returns
from coin_hts_pipelines.backtest.portfolio import Portfolio
from coin_hts_pipelines.backtest.request import BacktestRequest
from coin_hts_pipelines.backtest.risk import held_bars, monthly_returns, risk_metrics
from coin_hts_pipelines.backtest.signal_study import SignalStudy
from coin_hts_pipelines.market.candles import CandleArrays, timestamp_index
from coin_hts_pipelines.market.timeframe import Timeframe
from coin_hts_pipelines.strategies.base import ParamValue

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_NAT = np.iinfo(np.int64).min
_TEXT = pd.StringDtype("pyarrow", na_value=np.nan)


def _padded(values: FloatArray, length: int) -> FloatArray:
    out = np.full(length, np.nan)
    out[: len(values)] = values
    return out


# Columns are arrays: a frame of series or indexes would first line them up, which takes longer than all the rest.
def _text(codes: npt.NDArray[np.integer], names: tuple[str, ...]) -> ArrowStringArray:
    texts = pa.array(names, pa.large_string()).take(pa.array(codes))
    return ArrowStringArray(texts, dtype=_TEXT)  # type: ignore[call-arg]


def _times(micros: IntArray) -> DatetimeArray:
    return timestamp_index(micros).array


@dataclass(frozen=True)
class BacktestResult:
    """Result of one backtest of n bars; the frames are made when they are asked for."""

    request: BacktestRequest
    params: dict[str, ParamValue]
    candles: CandleArrays
    confidence: FloatArray
    signal_study: SignalStudy
    portfolio: Portfolio
    metrics: dict[str, float]
    inputs_digest: str

    @property
    def study(self) -> dict[str, float]:
        """Statistics of the signal study (SPEC 4.1)."""
        return self.signal_study.stats

    @cached_property
    def risk(self) -> dict[str, float]:
        """Figures beyond SPEC 4.3 (docs/risk.md)."""
        request = self.request
        return risk_metrics(
            self.portfolio.equity,
            self.candles.close,
            trade_returns(self.portfolio, request.costs.fee_rate),
            initial_cash=request.initial_cash,
            periods_per_year=Timeframe(request.timeframe).periods_per_year,
        )

    @cached_property
    def monthly(self) -> pd.DataFrame:
        """One row a calendar month: return, exposure and bars (see `monthly_returns`)."""
        account = self.portfolio
        held = held_bars(account.entry_bar, account.exit_bar, len(self.candles))
        return monthly_returns(self.candles.timestamp, account.equity, self.request.initial_cash, held)

    @property
    def _hold(self) -> int:
        return int(self.params["hold_period_bars"])

    @cached_property
    def _exits(self) -> tuple[IntArray, FloatArray]:
        bars = self.signal_study.bar[: len(self.signal_study.return_pct)] + self._hold
        stamps = np.full(len(self.signal_study.bar), _NAT)
        stamps[: len(bars)] = self.candles.timestamp[bars]
        return stamps, _padded(self.candles.close[bars], len(stamps))

    @cached_property
    def result_digest(self) -> str:
        """SHA-256 over the three tables: the same on every machine and in every execution mode."""
        bar, account = self.signal_study.bar, self.portfolio
        exit_stamps, exit_prices = self._exits
        return digest_of(
            {"kind": "result", "layout": 1, "hold_bars": self._hold, "reasons": list(REASONS)},
            {
                "signals.bar": bar,
                "signals.timestamp": self.candles.timestamp[bar],
                "signals.entry_price": self.candles.close[bar],
                "signals.exit_timestamp": exit_stamps,
                "signals.exit_price": exit_prices,
                "signals.return_pct": _padded(self.signal_study.return_pct, len(bar)),
                "signals.confidence": self.confidence,
                "trades.entry_bar": account.entry_bar,
                "trades.exit_bar": account.exit_bar,
                "trades.entry_price": account.entry_price,
                "trades.exit_price": account.exit_price,
                "trades.quantity": account.quantity,
                "trades.fees": account.fees,
                "trades.pnl": account.pnl,
                "trades.reason": account.reason,
                "equity.timestamp": self.candles.timestamp,
                "equity.equity": account.equity,
                "equity.drawdown": account.drawdown,
            },
        )

    @cached_property
    def signals(self) -> pd.DataFrame:
        """One row a signal: see SPEC 4.4."""
        bar = self.signal_study.bar
        exit_stamps, exit_prices = self._exits
        closed = np.arange(len(bar)) < len(self.signal_study.return_pct)
        return pd.DataFrame(
            {
                "bar": bar,
                "timestamp": _times(self.candles.timestamp[bar]),
                "side": _text(np.zeros(len(bar), dtype=np.int8), ("BUY",)),
                "entry_price": self.candles.close[bar],
                "exit_timestamp": _times(exit_stamps),
                "exit_price": exit_prices,
                "return_pct": _padded(self.signal_study.return_pct, len(bar)),
                "hold_bars": np.full(len(bar), self._hold, dtype=np.int64),
                "confidence": self.confidence,
                "status": _text(closed.astype(np.int8), ("open", "closed")),
            }
        )

    @cached_property
    def trades(self) -> pd.DataFrame:
        """One row a trade, an open one last: see SPEC 4.4."""
        account = self.portfolio
        done = account.exit_bar >= 0
        stamps = np.where(done, self.candles.timestamp[account.exit_bar], _NAT)
        return pd.DataFrame(
            {
                "entry_bar": pd.array(account.entry_bar, dtype="Int64"),
                "exit_bar": pd.arrays.IntegerArray(account.exit_bar.copy(), ~done),
                "entry_timestamp": _times(self.candles.timestamp[account.entry_bar]),
                "exit_timestamp": _times(stamps),
                "entry_price": account.entry_price,
                "exit_price": account.exit_price,
                "quantity": account.quantity,
                "fees": account.fees,
                "pnl": account.pnl,
                "return_pct": trade_returns(account, self.request.costs.fee_rate),
                "reason": _text(account.reason, REASONS),
                "status": _text(done.astype(np.int8), ("open", "closed")),
            }
        )

    @cached_property
    def equity(self) -> pd.DataFrame:
        """One row a bar: timestamp, equity (quote) and drawdown (fraction <= 0)."""
        return pd.DataFrame(
            {
                "timestamp": _times(self.candles.timestamp),
                "equity": self.portfolio.equity,
                "drawdown": self.portfolio.drawdown,
            }
        )
