"""Small results with the columns and dtypes of SPEC 4.4, made without the engine."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from coin_hts_pipelines.reports import SymbolSection, TearSheet

NOW = datetime(2025, 11, 21, 9, 0, tzinfo=UTC)


def times(bars: int, freq: str = "1D") -> pd.DatetimeIndex:
    return pd.date_range("2024-01-01", periods=bars, freq=freq, tz="UTC", unit="us")


def candles(bars: int, *, seed: int = 1, freq: str = "1D") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    close = 50_000_000 * np.exp(np.cumsum(rng.normal(0, 0.02, bars)))
    opened = np.concatenate([[50_000_000.0], close[:-1]])[:bars]
    return pd.DataFrame(
        {
            "timestamp": times(bars, freq),
            "open": opened,
            "high": np.maximum(opened, close) * 1.01,
            "low": np.minimum(opened, close) * 0.99,
            "close": close,
            "volume": rng.uniform(1, 10, bars),
        }
    )


def signals(frame: pd.DataFrame, every: int, hold: int = 3) -> pd.DataFrame:
    bar = np.arange(every, len(frame), every) if every else np.empty(0, dtype=np.int64)
    close, stamps = frame["close"].to_numpy(), frame["timestamp"]
    done = bar + hold < len(frame)
    end = np.minimum(bar + hold, len(frame) - 1)
    exits = np.where(done, close[end], np.nan)
    return pd.DataFrame(
        {
            "bar": bar.astype(np.int64),
            "timestamp": stamps.iloc[bar].reset_index(drop=True),
            "side": pd.Series(["BUY"] * len(bar), dtype="str"),
            "entry_price": close[bar],
            "exit_timestamp": stamps.iloc[end].reset_index(drop=True).where(done),
            "exit_price": exits,
            "return_pct": (exits - close[bar]) / close[bar] * 100,
            "hold_bars": np.full(len(bar), hold, dtype=np.int64),
            "confidence": np.full(len(bar), 0.75),
            "status": pd.Series(np.where(done, "closed", "open"), dtype="str"),
        }
    )


def trades(entered: pd.DataFrame) -> pd.DataFrame:
    done = (entered["status"] == "closed").to_numpy()
    quantity = 10_000_000 / entered["entry_price"]
    reasons = np.array(["time", "stop_loss", "take_profit"])[np.arange(len(entered)) % 3]
    return pd.DataFrame(
        {
            "entry_bar": entered["bar"].astype("Int64"),
            "exit_bar": (entered["bar"] + entered["hold_bars"]).astype("Int64").where(done),
            "entry_timestamp": entered["timestamp"],
            "exit_timestamp": entered["exit_timestamp"],
            "entry_price": entered["entry_price"],
            "exit_price": entered["exit_price"],
            "quantity": quantity,
            "fees": np.full(len(entered), 20_000.0),
            "pnl": quantity * (entered["exit_price"] - entered["entry_price"]) - 20_000,
            "return_pct": entered["return_pct"] - 0.2,
            "reason": pd.Series(np.where(done, reasons, "open"), dtype="str"),
            "status": entered["status"],
        }
    )


def equity(frame: pd.DataFrame) -> pd.DataFrame:
    account = 10_000_000 * np.sqrt(frame["close"].to_numpy() / frame["close"].iloc[0])
    peak = np.maximum.accumulate(np.maximum(account, 10_000_000))
    return pd.DataFrame({"timestamp": frame["timestamp"], "equity": account, "drawdown": account / peak - 1})


def section(
    symbol: str = "KRW-BTC", *, bars: int = 120, every: int = 5, seed: int = 1, **changes: Any
) -> SymbolSection:
    frame = candles(bars, seed=seed)
    bought = signals(frame, every)
    sold = trades(bought)
    account = equity(frame)
    closed = int((bought["status"] == "closed").sum())
    metrics = {
        "total_return": float(account["equity"].iloc[-1] / 10_000_000 - 1),
        "sharpe": 0.5,
        "max_drawdown": float(account["drawdown"].min()),
        "exposure": 0.25,
        "trades": closed,
        "fees_paid": 1_234_567.0,
        "buy_and_hold_return": float(frame["close"].iloc[-1] / frame["close"].iloc[0] - 1),
        "profit_factor": float("nan"),
        **changes.pop("metrics", {}),
    }
    study = {
        "samples": len(bought),
        "closed": closed,
        "win_rate": 0.5 if closed else 0.0,
        "avg_return": 1.5 if closed else 0.0,
        "max_drawdown": 4.0 if closed else 0.0,
        "avg_hold_bars": 3.0 if closed else 0.0,
    }
    parts = {
        "source": "files",
        "synthetic": False,
        "candles": frame,
        "signals": bought,
        "trades": sold,
        "equity": account,
        "study": study,
        **changes,
    }
    return SymbolSection(symbol=symbol, metrics=metrics, **parts)


def sheet(*sections: SymbolSection, **changes: Any) -> TearSheet:
    parts = {
        "preset": "zone-daily",
        "strategy": "volume_zone_breakout",
        "strategy_version": "1",
        "timeframe": "1D",
        "params": {"volume_window": 20, "breakout_buffer": 0.0, "include_wicks": True, "hold_period_bars": 3},
        "exits": {"stop_loss": 0.05, "take_profit": None},
        "costs": {"fee_rate": 0.001, "slippage_rate": 0.0002},
        "initial_cash": 10_000_000,
        "fill": "close",
        "generated_at": NOW,
        "failed": {},
        **changes,
    }
    return TearSheet(sections=sections, **parts)
