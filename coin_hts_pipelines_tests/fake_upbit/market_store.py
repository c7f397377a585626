"""Markets and candles of the fake exchange: the whole truth, the future included; the clock decides what is seen of it.

Candles come in the lake's frames, and values are rounded to Upbit's eight decimals, so that what a client reads from
the JSON is exactly what `MarketStore.candles` returns.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.candle_files import epoch_micros
from coin_hts_pipelines.market import (
    CandleArrays,
    Timeframe,
    candle_arrays,
    merge_candles,
    normalize_symbol,
    validate_candles,
)
from coin_hts_pipelines.market.candles import frame_of
from coin_hts_pipelines_tests.candle_maker import random_walk

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
# Upbit has calendar months, the lake has not; they can be read, not put.
MONTH = "months"
COLUMNS = ("open", "high", "low", "close", "volume", "value")


@dataclass(frozen=True)
class Market:
    """One row of the market list."""

    symbol: str
    korean_name: str
    english_name: str
    warning: bool = False


@dataclass(frozen=True, eq=False)
class Series:
    """Candles of one symbol and timeframe, oldest first, all of length n; compared and hashed by identity.

    `opened` and `ended` are int64 microseconds, `traded_ms` the last trade in milliseconds, `values` (n, 6) has
    `COLUMNS`, `previous` is the close before each candle (the first one's own open).
    """

    opened: Ints
    ended: Ints
    values: Floats
    traded_ms: Ints
    previous: Floats

    def __len__(self) -> int:
        return len(self.opened)

    def part(self, start: int, stop: int) -> Series:
        """Candles `start .. stop-1`, as views."""
        return Series(**{name: array[start:stop] for name, array in vars(self).items()})

    def finished(self, now_us: int) -> int:
        """How many candles have ended at a moment."""
        return int(np.searchsorted(self.ended, now_us, side="right"))

    def unfinished(self, now_us: int) -> Series | None:
        """State, at a moment, of the candle that moment lies in: a share of its final wicks, body and volume."""
        at = self.finished(now_us)
        if at == len(self) or self.opened[at] >= now_us:
            return None
        share = (now_us - self.opened[at]) / (self.ended[at] - self.opened[at])
        final, opened = self.values[at], self.values[at, 0]
        values = np.concatenate([opened + (final[:4] - opened) * share, final[4:] * share])
        return replace(self.part(at, at + 1), values=_rounded(values)[None], traded_ms=np.array([now_us // 1000]))

    def frame(self, stop: int | None = None) -> pd.DataFrame:
        """The first `stop` candles (all by default) as a frame of the lake, with `value`."""
        columns = dict(zip(COLUMNS, self.values[:stop].T.copy(), strict=True))
        value = columns.pop("value")
        return frame_of(CandleArrays(timestamp=self.opened[:stop].copy(), **columns)).assign(value=value)


def _rounded(values: Floats) -> Floats:
    # From 2**26 on eight decimals are finer than a float, and rounding would disturb it.
    return np.where(np.abs(values) < 2**26, np.round(values, 8), values)


def _bins(opened: Ints, timeframe: str) -> tuple[Ints, Ints]:
    """Open and end of the bar that holds each moment."""
    if timeframe == MONTH:
        months = opened.view("datetime64[us]").astype("datetime64[M]")
        start, end = (part.astype("datetime64[us]").view(np.int64) for part in (months, months + 1))
        return start, end
    length, offset = Timeframe(timeframe).microseconds, Timeframe(timeframe).grid_offset_us
    start = (opened - offset) // length * length + offset
    return start, start + length


def _series(opened: Ints, values: Floats, timeframe: str) -> Series:
    start, ended = _bins(opened, timeframe)
    # The last trade: up to two seconds before the end of the bar, or, as measured, up to 48 ms past it.
    early = start // 60_000_000 * 2_654_435_761 % 2048
    values = _rounded(values)
    previous = np.concatenate([values[:1, 0], values[:-1, 3]])
    return Series(start, ended, values, ended // 1000 + 48 - early, previous)


_NOTHING = _series(np.empty(0, np.int64), np.empty((0, 6)), Timeframe.M1)


def _of_frame(frame: pd.DataFrame, timeframe: Timeframe) -> Series:
    arrays = candle_arrays(frame)
    value = frame["value"].to_numpy() if "value" in frame.columns else arrays.close * arrays.volume
    columns = [arrays.open, arrays.high, arrays.low, arrays.close, arrays.volume, value]
    return _series(arrays.timestamp, np.column_stack(columns), timeframe)


def _coarser(fine: Series, timeframe: str) -> Series:
    start, _ = _bins(fine.opened, timeframe)
    first = np.flatnonzero(np.diff(start, prepend=start[0] - 1))
    last = np.append(first[1:], len(fine)) - 1
    columns = [
        fine.values[first, 0],
        np.maximum.reduceat(fine.values[:, 1], first),
        np.minimum.reduceat(fine.values[:, 2], first),
        fine.values[last, 3],
        *(np.add.reduceat(fine.values[:, column], first) for column in (4, 5)),
    ]
    return _series(start[first], np.column_stack(columns), timeframe)


class MarketStore:
    """Markets with their candles; every method may be called while the server runs."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._listed: dict[str, Market] = {}
        self._stored: dict[str, dict[Timeframe, Series]] = {}
        self._derived: dict[tuple[str, str], Series] = {}

    @classmethod
    def of_lake(
        cls, root: Path | str, symbols: Collection[str] | None = None, timeframes: Collection[str] | None = None
    ) -> MarketStore:
        """Take the candles of a folder in the lake's layout, or those of some symbols and timeframes."""
        market, lake = cls(), CandleStore(root)
        for symbol in lake.symbols() if symbols is None else symbols:
            for timeframe in lake.timeframes(symbol):
                if timeframes is None or timeframe in timeframes:
                    market.put(symbol, timeframe, lake.load(symbol, timeframe))
        return market

    # ---- markets

    def list(self, symbol: str, *, korean_name: str = "", english_name: str = "", warning: bool = False) -> None:
        """List a market, or change what its row says; its candles are those it had."""
        symbol = normalize_symbol(symbol)
        base = symbol.partition("-")[2]
        with self._lock:
            self._listed[symbol] = Market(symbol, korean_name or base, english_name or base, warning)
            self._stored.setdefault(symbol, {})

    def delist(self, symbol: str) -> None:
        """Take a market off the list: its candles are kept but no longer served."""
        with self._lock:
            del self._listed[normalize_symbol(symbol)]

    def listed(self) -> tuple[Market, ...]:
        """Markets in the order they were listed in."""
        with self._lock:
            return tuple(self._listed.values())

    def is_listed(self, symbol: str) -> bool:
        """Whether a market is on the list."""
        with self._lock:
            return symbol in self._listed

    # ---- candles

    def put(self, symbol: str, timeframe: str, candles: pd.DataFrame) -> None:
        """Add candles, newer ones win; a symbol never seen before is listed.

        Raises
        ------
        InvalidCandles
            They break a rule of the lake.
        """
        symbol, timeframe = normalize_symbol(symbol), Timeframe.parse(timeframe)
        candles = validate_candles(candles, timeframe)
        with self._lock:
            if symbol not in self._stored:
                self.list(symbol)
            old = self._stored[symbol].get(timeframe)
            merged = candles if old is None else merge_candles(old.frame(), candles)
            self._stored[symbol][timeframe] = _of_frame(merged, timeframe)
            self._derived = {key: series for key, series in self._derived.items() if key[0] != symbol}

    def change(self, symbol: str, timeframe: str, opened: datetime, **values: float) -> None:
        """Change some `COLUMNS` of one stored candle, and so those of the derived candles it lies in."""
        symbol, timeframe = normalize_symbol(symbol), Timeframe.parse(timeframe)
        with self._lock:
            frame = self._stored[symbol][timeframe].frame()
            row = frame[frame["timestamp"] == pd.Timestamp(opened)]
            if len(row) != 1:
                raise KeyError(f"{symbol} {timeframe} has no candle of {opened}")
            self.put(symbol, timeframe, row.assign(**values))

    def series(self, symbol: str, timeframe: str) -> Series:
        """All candles: those put, or else derived from the coarsest stored timeframe that divides this one."""
        with self._lock:
            stored = self._stored[symbol]
            if timeframe in stored:
                return stored[Timeframe(timeframe)]
            if (symbol, timeframe) not in self._derived:
                length = Timeframe(Timeframe.D1 if timeframe == MONTH else timeframe).delta
                finer = [fine for fine in stored if fine.delta <= length and not length % fine.delta]
                base = max(finer, key=lambda fine: fine.delta, default=None)
                derived = _NOTHING if base is None else _coarser(stored[base], timeframe)
                self._derived[symbol, timeframe] = derived
            return self._derived[symbol, timeframe]

    def candles(self, symbol: str, timeframe: str, now: datetime | None = None) -> pd.DataFrame:
        """Frame, with `value`, of the candles finished at a moment (of all, the future included, without one)."""
        series = self.series(normalize_symbol(symbol), timeframe)
        return series.frame(None if now is None else series.finished(epoch_micros(now)))


def made_candles(
    start: datetime, end: datetime, timeframe: str = "1M", *, seed: int = 1, price: float = 50_000.0, gaps: bool = True
) -> pd.DataFrame:
    """Walk with candles of `[start, end)`, as volatile a day whatever the timeframe; `gaps` leaves bars out."""
    parsed = Timeframe.parse(timeframe)
    first = epoch_micros(parsed.floor(start))
    bars = -(-(epoch_micros(end) - first) // parsed.microseconds)
    # The maker's walk lies on its own grid of days; only the places of its bars are used.
    frame = random_walk(bars, seed, price=price, gaps=gaps)
    days = (frame["timestamp"] - frame["timestamp"].iloc[0]) // pd.Timedelta(days=1)
    micros = first + days.to_numpy(np.int64) * parsed.microseconds
    calm = (parsed.microseconds / Timeframe.D1.microseconds) ** 0.5
    for name in ("open", "high", "low", "close"):
        frame[name] = (price * (frame[name] / price) ** calm).round(4)
    frame["timestamp"] = pd.DatetimeIndex(micros.view("datetime64[us]")).tz_localize("UTC")
    inside = (frame["timestamp"] >= pd.Timestamp(start)) & (frame["timestamp"] < pd.Timestamp(end))
    return validate_candles(frame[inside], parsed)
