"""What of a symbol goes into the page: compact JSON of its curves, tables and figures, escaped for a script block."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.backtest.risk import held_bars, monthly_returns
from coin_hts_pipelines.reports.charts import extreme_indices

FloatArray = npt.NDArray[np.float64]

POINT_LIMIT = 4_000
ROW_LIMIT = 2_000
_BINS = 40
_DIGITS = 9  # a price of 150,000,000 KRW to the won

_SIGNALS = ("timestamp", "entry_price", "exit_timestamp", "exit_price", "return_pct", "confidence", "status")
_TRADES = (
    "entry_timestamp",
    "exit_timestamp",
    "entry_price",
    "exit_price",
    "quantity",
    "fees",
    "pnl",
    "return_pct",
    "reason",
)


def script_json(value: object) -> str:
    """Encode for `<script type="application/json">`: no text in it can end the block."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def minutes(column: pd.Series) -> npt.NDArray[np.int64]:
    """Minutes since the epoch; a missing time is the lowest int64."""
    micros = column.to_numpy(dtype="datetime64[us]").view(np.int64)
    return np.where(micros == np.iinfo(np.int64).min, micros, micros // 60_000_000)


def rounded(values: FloatArray, decimals: int | None = None) -> list[float | None]:
    """Round to decimals, or to nine digits of the largest value; what is not finite becomes None."""
    finite = np.isfinite(values)
    if decimals is None:
        largest = float(np.abs(values[finite]).max(initial=0.0))
        decimals = _DIGITS - 1 - math.floor(math.log10(largest)) if largest > 0 else 0
    numbers: list[float | None] = np.round(values, min(max(decimals, 0), 15)).tolist()
    if finite.all():
        return numbers
    return [number if good else None for number, good in zip(numbers, finite.tolist(), strict=True)]


def _column(column: pd.Series) -> list[Any]:
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return [None if m == np.iinfo(np.int64).min else m for m in minutes(column).tolist()]
    if pd.api.types.is_numeric_dtype(column.dtype):
        return rounded(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return column.tolist()


def _table(frame: pd.DataFrame, names: tuple[str, ...]) -> dict[str, Any]:
    latest = frame.iloc[-ROW_LIMIT:]
    return {"total": len(frame), "rows": len(latest), **{name: _column(latest[name]) for name in names}}


def histogram(returns: FloatArray) -> dict[str, Any]:
    """Count returns (percent) in bins of a round width of which one edge is 0."""
    values = returns[np.isfinite(returns)]
    if not len(values):
        return {"n": 0}
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    rough = max(high - low, 1e-6) / _BINS
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(step * power for step in (1, 2, 5, 10, 20) if step * power >= rough)
    # A return of exactly 0 is no gain: bins hold their right edge, so it counts to the left of 0.
    bins = np.ceil(values / width).astype(np.int64) - 1
    bins = np.where(values > 0, np.maximum(bins, 0), bins)  # the smallest gains vanish in the division
    first = int(bins.min())
    return {
        "n": len(values),
        "mean": round(float(values.mean()), 6),
        "median": round(float(np.median(values)), 6),
        "width": width,
        "first": first,
        "counts": np.bincount(bins - first).tolist(),
    }


def _months(equity: pd.DataFrame, trades: pd.DataFrame, initial_cash: float) -> dict[str, Any]:
    """Years, and for each twelve monthly returns (percent) and exposures, the year's return and its exposure."""
    account = equity["equity"].to_numpy(dtype=np.float64)
    stamps = equity["timestamp"].to_numpy(dtype="datetime64[us]").view(np.int64)
    entry, exit_ = (trades[name].to_numpy(np.int64, na_value=-1) for name in ("entry_bar", "exit_bar"))
    months = monthly_returns(stamps, account, initial_cash, held_bars(entry, exit_, len(account)))
    years: dict[str, Any] = {}
    for year, rows in months.groupby(months["month"].dt.year):
        change, share, bars = (rows[name].to_numpy(np.float64) for name in ("return", "exposure", "bars"))
        returns, held = np.full(12, np.nan), np.full(12, np.nan)
        place = rows["month"].dt.month.to_numpy() - 1
        returns[place], held[place] = change * 100, share
        years[str(year)] = {
            "months": rounded(returns, 2),
            "exposures": rounded(held, 4),
            "total": round(float(np.prod(change + 1) - 1) * 100, 2),
            "exposure": round(float(share @ bars / bars.sum()), 4),
        }
    return years


def _figures(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in figures.items()}


def section_payload(
    *,
    candles: pd.DataFrame,
    signals: pd.DataFrame,
    trades: pd.DataFrame,
    equity: pd.DataFrame,
    study: Mapping[str, float],
    metrics: Mapping[str, float],
    initial_cash: float,
) -> dict[str, Any]:
    """Collect what the page draws for one symbol.

    Candles and equity have one row for each of n bars; at most `POINT_LIMIT` are kept, every bucket's extremes of all
    curves among them. Times are minutes since the epoch, those of the bars as differences.
    """
    high, low, close = (candles[name].to_numpy(dtype=np.float64) for name in ("high", "low", "close"))
    account = equity["equity"].to_numpy(dtype=np.float64)
    drawdown = equity["drawdown"].to_numpy(dtype=np.float64)
    kept = extreme_indices([low, close, account, drawdown], [high, close, account], POINT_LIMIT)
    bars = trades["exit_bar"].to_numpy(np.float64, na_value=np.nan) - trades["entry_bar"].to_numpy(np.float64)
    return {
        "bars": len(candles),
        "time": np.diff(minutes(candles["timestamp"])[kept], prepend=0).tolist(),
        "high": rounded(high[kept]),
        "low": rounded(low[kept]),
        "close": rounded(close[kept]),
        "equity": rounded(account[kept]),
        "drawdown": rounded(drawdown[kept], 5),
        "signals": _table(signals, _SIGNALS),
        "trades": {**_table(trades, _TRADES), "bars": rounded(bars[-ROW_LIMIT:] if len(bars) else bars, 0)},
        "study_returns": histogram(signals["return_pct"].to_numpy(np.float64, na_value=np.nan)),
        "trade_returns": histogram(trades["return_pct"].to_numpy(np.float64, na_value=np.nan)),
        "months": _months(equity, trades, initial_cash),
        "study": _figures(study),
        "metrics": _figures(metrics),
    }
