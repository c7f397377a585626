"""Results of an older system, as its JSON files have them: what such a file must hold, and the tables made of it.

Belongs here: one document. Not here: where results are kept and which were imported (`legacy_store`).
Values are taken over as they stand, never computed anew; what a file lacks stays missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coin_hts_pipelines.backtest.digest import digest_of
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.market import Span, Timeframe, normalize_symbol, parse_span
from coin_hts_pipelines.results.legacy_json import (
    figure,
    kind_of,
    list_in,
    micros_in,
    not_finite,
    number,
    number_in,
    object_in,
    read_as,
    text_in,
)
from coin_hts_pipelines.results.tables import SCHEMAS

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_SIDES = ("BUY", "SELL")
_NAT = np.iinfo(np.int64).min
_MICROSECOND = timedelta(microseconds=1)
_POINT = ("equity", "value", "drawdown")
_STUDY = ("win_rate", "avg_return", "max_drawdown", "avg_hold_bars")


@dataclass(frozen=True)
class LegacySymbol:
    """One symbol of a run: n signals, a curve of m points; missing is NaN, for times the least int64.

    `timestamp` and `curve_timestamp` are microseconds since the epoch, `side` the position in `BUY SELL`; `spelled` is
    the symbol as the file has it; `not_finite` counts the figures that were NaN or Infinity and are missing here.
    """

    symbol: str
    spelled: str
    timestamp: IntArray
    side: IntArray
    entry_price: FloatArray
    exit_price: FloatArray
    return_pct: FloatArray
    curve_timestamp: IntArray
    equity: FloatArray
    drawdown: FloatArray
    figures: dict[str, float | int | None]
    not_finite: int

    @property
    def return_unit(self) -> str | None:
        """`fraction` or `percent` by the prices beside the returns, None when they do not tell.

        Despite its name `return_pct` held fractions in what the older system wrote (0.05 for 5 percent).
        """
        with np.errstate(all="ignore"):
            ratio = self.return_pct * self.entry_price / (self.exit_price - self.entry_price)
        ratio = ratio[np.isfinite(ratio)]
        middle = float(np.median(ratio)) if len(ratio) else math.nan
        if 0.5 < middle < 2:
            return "fraction"
        return "percent" if 50 < middle < 200 else None

    @property
    def digest(self) -> str:
        """SHA-256 of what the file says of this symbol; bars are not in it, they depend on the stored candles."""
        columns = {
            "signals.timestamp": self.timestamp,
            "signals.side": self.side,
            "signals.entry_price": self.entry_price,
            "signals.exit_price": self.exit_price,
            "signals.return_pct": self.return_pct,
            "equity.timestamp": self.curve_timestamp,
            "equity.equity": self.equity,
            "equity.drawdown": self.drawdown,
        }
        return digest_of({"kind": "legacy", "layout": 1, "sides": list(_SIDES), "figures": self.figures}, columns)


@dataclass(frozen=True)
class LegacyRun:
    """One result file: its request as it stands and its symbols.

    `first` and `last` are the open times that `span` holds on the timeframe's grid (the last twice if it holds none);
    `executed` is when the run began and ended, None when the file does not say.
    """

    run_id: str
    strategy: str
    params: dict[str, Any]
    start_date: str
    end_date: str
    timeframe: Timeframe
    span: Span
    first: datetime
    last: datetime
    symbols: tuple[LegacySymbol, ...]
    executed: tuple[datetime, datetime] | None

    @property
    def signals(self) -> int:
        """Signals of all symbols."""
        return sum(len(one.timestamp) for one in self.symbols)

    @property
    def not_finite(self) -> int:
        """Figures of all symbols that were NaN or Infinity."""
        return sum(one.not_finite for one in self.symbols)

    @property
    def hold_bars(self) -> int | None:
        """Holding period, if the parameters name a whole number."""
        hold = self.params.get("hold_period_bars")
        return hold if type(hold) is int and 0 < hold < 2**31 else None


def parse_run(document: Any) -> LegacyRun:
    """Read a decoded result file.

    Raises
    ------
    InvalidRequest
        Naming the first field that is missing, of the wrong type, or not a value of its kind.
    """
    if not isinstance(document, dict):
        raise InvalidRequest(f"it holds {kind_of(document)}; expected an object with run_id, strategy, symbols, ...")
    run_id, strategy = text_in(document, "run_id"), text_in(document, "strategy")
    params, entries = object_in(document, "params"), list_in(document, "symbols")
    timeframe = Timeframe.parse(text_in(document, "timeframe"))
    start, end = text_in(document, "start_date"), text_in(document, "end_date")
    span, first, last = read_as("start_date, end_date", lambda: _span(start, end, timeframe))
    if not entries:
        raise InvalidRequest("symbols is empty; there is no result in the file")
    symbols = tuple(_symbol(entry, f"symbols[{k}]") for k, entry in enumerate(entries))
    seen: set[str] = set()
    for one in symbols:
        if one.symbol in seen:
            raise InvalidRequest(f"symbols holds {one.symbol} twice; expected each symbol once")
        seen.add(one.symbol)
    return LegacyRun(
        run_id=run_id,
        strategy=strategy,
        params=params,
        start_date=start,
        end_date=end,
        timeframe=timeframe,
        span=span,
        first=first,
        last=last,
        symbols=symbols,
        executed=_executed(document),
    )


def signals_table(run: LegacyRun, one: LegacySymbol, stored: IntArray | None) -> pa.Table:
    """Signals of a symbol as SPEC 4.4 has them.

    The exit's time and the confidence are missing, and so is the bar of a signal that is at no stored open time.

    Parameters
    ----------
    stored
        Open times (microseconds) of the stored candles of the span, of which a bar is the position; None without any.
    """
    n = len(one.timestamp)
    found, bars = np.zeros(n, dtype=bool), np.zeros(n, dtype=np.int64)
    if stored is not None and len(stored):
        bars = np.searchsorted(stored, one.timestamp).astype(np.int64)
        found = stored[np.minimum(bars, len(stored) - 1)] == one.timestamp
    known = {
        "bar": pa.array(bars, mask=~found),
        "timestamp": _times(one.timestamp),
        "side": pa.array(_SIDES).take(pa.array(one.side)),
        "entry_price": pa.array(one.entry_price),
        "exit_price": pa.array(one.exit_price, from_pandas=True),
        "return_pct": pa.array(one.return_pct, from_pandas=True),
        "hold_bars": pa.array([run.hold_bars] * n, pa.int64()),
        "status": pa.array(("closed", "open")).take(pa.array(np.isnan(one.exit_price).astype(np.int64))),
    }
    return pa.table(
        [known.get(field.name, pa.nulls(n, field.type)) for field in SCHEMAS["signals"]], schema=SCHEMAS["signals"]
    )


def equity_table(one: LegacySymbol) -> pa.Table:
    """Performance curve of a symbol in the columns of the equity table, its values in the older system's unit."""
    columns = [
        _times(one.curve_timestamp),
        *(pa.array(values, from_pandas=True) for values in (one.equity, one.drawdown)),
    ]
    return pa.table(columns, schema=SCHEMAS["equity"])


def _times(micros: IntArray) -> pa.Array:
    return pa.array(micros, mask=micros == _NAT).cast(SCHEMAS["equity"].field("timestamp").type)


def _span(start: str, end: str, timeframe: Timeframe) -> tuple[Span, datetime, datetime]:
    span = parse_span(start, end)
    if span.start is None or span.end is None:
        raise InvalidRequest(f"{start} to {end} is not bounded")
    last = timeframe.floor(span.end - _MICROSECOND)
    first = timeframe.floor(span.start - _MICROSECOND) + timeframe.delta
    return span, min(first, last), last


def _symbol(entry: Any, where: str) -> LegacySymbol:
    if not isinstance(entry, dict):
        raise InvalidRequest(f"{where} is {kind_of(entry)}; expected an object")
    inside = f"{where}."
    spelled, signals = text_in(entry, "symbol", inside), list_in(entry, "signals", inside)
    symbol = read_as(f"{inside}symbol", lambda: normalize_symbol(spelled))
    rows = [_signal(signal, f"{inside}signals[{k}]") for k, signal in enumerate(signals)]
    curve = [] if entry.get("performance_curve") is None else list_in(entry, "performance_curve", inside)
    points = [_point(point, f"{inside}performance_curve[{k}]") for k, point in enumerate(curve)]
    stamps, sides, entries, exits, returns = zip(*rows, strict=True) if rows else ((),) * 5
    times, equity, drawdown = zip(*points, strict=True) if points else ((),) * 3
    figures: dict[str, float | int | None] = {"study_samples": len(rows)}
    for name in _STUDY:
        value = number_in(entry, name, inside)
        figures[f"study_{name}"] = None if math.isnan(value) else value
    return LegacySymbol(
        symbol=symbol,
        spelled=spelled,
        timestamp=np.array(stamps, dtype=np.int64),
        side=np.array(sides, dtype=np.int64),
        entry_price=np.array(entries, dtype=np.float64),
        exit_price=np.array(exits, dtype=np.float64),
        return_pct=np.array(returns, dtype=np.float64),
        curve_timestamp=np.array(times, dtype=np.int64),
        equity=np.array(equity, dtype=np.float64),
        drawdown=np.array(drawdown, dtype=np.float64),
        figures=figures,
        not_finite=_count_not_finite(entry, signals, curve),
    )


def _count_not_finite(entry: dict[str, Any], signals: list[Any], curve: list[Any]) -> int:
    figures = [entry.get(name) for name in _STUDY]
    figures += [signal.get(name) for signal in signals for name in ("exit_price", "return_pct")]
    for point in curve:
        figures += [point.get(name) for name in _POINT] if isinstance(point, dict) else [point]
    return sum(map(not_finite, figures))


def _signal(signal: Any, where: str) -> tuple[int, int, float, float, float]:
    if not isinstance(signal, dict):
        raise InvalidRequest(f"{where} is {kind_of(signal)}; expected an object")
    inside = f"{where}."
    side = text_in(signal, "type", inside).upper()
    if side not in _SIDES:
        raise InvalidRequest(f"{where}.type is {signal['type'][:80]!r}; expected buy or sell")
    if "entry_price" not in signal:
        raise InvalidRequest(f"{where}.entry_price is missing")
    return (
        micros_in(signal, "timestamp", inside),
        _SIDES.index(side),
        number(signal["entry_price"], f"{where}.entry_price"),
        number_in(signal, "exit_price", inside),
        number_in(signal, "return_pct", inside),
    )


def _point(point: Any, where: str) -> tuple[int, float, float]:
    """One point of a curve: a number, or an object of `equity` (or `value`) with `timestamp` and `drawdown` or not."""
    if not isinstance(point, dict):
        return _NAT, figure(point, where), math.nan
    inside = f"{where}."
    name = "value" if "equity" not in point and "value" in point else "equity"
    if name not in point:
        raise InvalidRequest(f"{where}.equity is missing")
    stamp = _NAT if point.get("timestamp") is None else micros_in(point, "timestamp", inside)
    return stamp, figure(point[name], f"{inside}{name}"), number_in(point, "drawdown", inside)


def _executed(document: dict[str, Any]) -> tuple[datetime, datetime] | None:
    """When a run began and ended; no field a result must have, so that one that cannot be read is not there."""
    metadata = document.get("metadata")
    try:
        ended = parse_span(text_in(metadata if isinstance(metadata, dict) else {}, "execution_date")).start
        seconds = number_in(document, "execution_time")
        return (ended - timedelta(seconds=seconds), ended) if ended is not None and seconds >= 0 else None
    except (InvalidRequest, OverflowError):
        return None
