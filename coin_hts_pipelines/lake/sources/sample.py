"""Made-up candles with the look of a KRW market, for trying everything out without a network.

A symbol has one daily log-price path from `ANCHOR` on: regimes (bull, bear, sideways) set drift and volatility, fat
tails come from a random volatility factor, and a weak pull keeps the price near the symbol's level. The bars inside a
day are a bridge between that day's two ends, so opens and closes of all timeframes meet at 00:00 UTC and their volumes
add up to the day's; highs and lows are drawn for each timeframe on its own.

All noise is a hash of (seed, symbol, channel, counter): a bar has the same values whatever span is asked for and
whenever, and asking for a week costs a week.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.lake.candle_files import epoch_micros
from coin_hts_pipelines.market import Span, Timeframe, empty_candles, normalize_symbol, validate_candles
from coin_hts_pipelines.market.candles import timestamp_index

Floats = npt.NDArray[np.float64]

ANCHOR = datetime(2020, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000
_ANCHOR_DAY = 18_262  # days from the epoch to ANCHOR

# Price around which the path moves, and turnover of a quiet day, both in KRW.
_LEVELS = {
    "KRW-BTC": (60_000_000, 3e11),
    "KRW-ETH": (3_000_000, 2e11),
    "KRW-XRP": (900, 2.5e11),
    "KRW-SOL": (130_000, 8e10),
    "KRW-ADA": (650, 4e10),
    "KRW-DOGE": (180, 6e10),
    "KRW-AVAX": (35_000, 2e10),
    "KRW-LINK": (18_000, 1.5e10),
    "KRW-DOT": (8_000, 1e10),
    "KRW-XLM": (250, 2e10),
}
TEN_KRW_SYMBOLS = tuple(_LEVELS)

# Daily drift and volatility of the log price: bull, bear, sideways.
_DRIFT = np.array([0.006, -0.006, 0.0])
_VOLATILITY = np.array([0.032, 0.040, 0.018])
_SHORTEST_REGIME, _MEAN_EXTRA = 20, 40
_PULL = 0.004
_TAIL = 0.45  # sd of the log of the volatility factor: kurtosis 3*exp(4*0.45^2) = 6.7

# Upbit's price units: from this price on, prices are whole multiples of numerator/denominator.
_UNITS = np.array(
    [
        (0, 1, 10_000),
        (1, 1, 1_000),
        (10, 1, 100),
        (100, 1, 10),
        (1_000, 1, 1),
        (10_000, 10, 1),
        (100_000, 50, 1),
        (500_000, 100, 1),
        (1_000_000, 500, 1),
        (2_000_000, 1_000, 1),
    ],
    dtype=np.float64,
)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _uniform(key: int, channel: int, counter: npt.NDArray[np.uint64]) -> Floats:
    """Uniform numbers in (0, 1), splitmix64 of a key, a channel and counters."""
    start = np.uint64((key + channel * 0xD1342543DE82EF95) % 2**64)
    x = start + (counter + np.uint64(1)) * _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _normal_pair(key: int, channel: int, counter: npt.NDArray[np.uint64]) -> tuple[Floats, Floats]:
    """Two independent standard normals per counter (Box and Muller)."""
    radius = np.sqrt(-2.0 * np.log(_uniform(key, channel, counter)))
    angle = 2.0 * np.pi * _uniform(key, channel + 1, counter)
    return radius * np.cos(angle), radius * np.sin(angle)


def _fat_normal(key: int, channel: int, counter: npt.NDArray[np.uint64], tail: float) -> Floats:
    """Fat-tailed numbers of variance 1: a normal times a log-normal volatility."""
    normal, other = _normal_pair(key, channel, counter)
    scale: Floats = np.exp(tail * other - tail * tail)
    return normal * scale


def _on_units(price: Floats) -> Floats:
    """Round prices to the price unit of their level, to one unit at least."""
    row = np.searchsorted(_UNITS[:, 0], price, side="right") - 1
    numerator, denominator = _UNITS[row, 1], _UNITS[row, 2]
    units = np.maximum(np.round(price * denominator / numerator), 1.0)
    rounded: Floats = units * numerator / denominator
    return rounded


class SampleSource:
    """Candles that nobody traded.

    Parameters
    ----------
    now
        The present, for what is closed; None asks the clock at every call.
    symbols
        Symbols it lists. Any other valid symbol can be fetched too.
    seed
        Another seed is another market.
    """

    name = "sample"
    synthetic = True

    def __init__(
        self, *, now: datetime | None = None, symbols: tuple[str, ...] = TEN_KRW_SYMBOLS, seed: int = 42
    ) -> None:
        self._now = now
        self._symbols = sorted({normalize_symbol(symbol) for symbol in symbols})
        self._seed = seed

    def symbols(self) -> list[str]:
        """Symbols it lists, sorted."""
        return list(self._symbols)

    def timeframes(self, symbol: str) -> list[Timeframe]:
        """All timeframes, shortest first."""
        normalize_symbol(symbol)
        return list(Timeframe)

    def years(self, symbol: str, timeframe: Timeframe, span: Span) -> list[int]:
        """UTC years with closed bars in a span, sorted."""
        normalize_symbol(symbol)
        first, last = self._bars(timeframe, span)
        if first >= last:
            return []
        opens = [
            timedelta(microseconds=bar * timeframe.microseconds + timeframe.grid_offset_us) for bar in (first, last - 1)
        ]
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        return list(range((epoch + opens[0]).year, (epoch + opens[1]).year + 1))

    def fetch(self, symbol: str, timeframe: Timeframe, span: Span) -> pd.DataFrame:
        """Canonical candles of a span with turnover, from the anchor to the last closed bar."""
        symbol = normalize_symbol(symbol)
        first, last = self._bars(timeframe, span)
        if first >= last:
            return empty_candles()
        size = timeframe.microseconds
        opens = np.arange(first, last, dtype=np.int64) * size + timeframe.grid_offset_us
        day = opens[0] // _DAY_US - _ANCHOR_DAY
        end_day = -(-(opens[-1] + size) // _DAY_US) - _ANCHOR_DAY
        per_day = max(_DAY_US // size, 1)
        columns = _day_bars(symbol, self._seed, int(day), int(end_day), per_day)
        if timeframe is Timeframe.W1:
            columns = _weeks(columns)
        else:
            skipped = int((opens[0] - (day + _ANCHOR_DAY) * _DAY_US) // size)
            columns = {name: values[skipped : skipped + len(opens)] for name, values in columns.items()}
        return validate_candles(pd.DataFrame({"timestamp": timestamp_index(opens), **columns}), timeframe)

    def _bars(self, timeframe: Timeframe, span: Span) -> tuple[int, int]:
        """Positions on the grid `[first, last)` of the closed bars in a span."""
        size, offset = timeframe.microseconds, timeframe.grid_offset_us
        now = self._now or datetime.now(UTC)
        start = max(epoch_micros(ANCHOR), epoch_micros(span.start) if span.start else 0)
        closed = (epoch_micros(now) - offset) // size
        last = closed if span.end is None else min(closed, -(-(epoch_micros(span.end) - offset) // size))
        return -(-(start - offset) // size), last


def _key(seed: int, symbol: str, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}|{symbol}|{purpose}".encode()).digest()[:8], "little")


def _level(symbol: str, seed: int) -> tuple[float, float]:
    known = _LEVELS.get(symbol)
    if known is not None:
        return known
    first, second = _uniform(_key(seed, symbol, "level"), 0, np.arange(2, dtype=np.uint64))
    return float(10.0 ** (1.5 + 4.0 * first)), float(10.0 ** (9.0 + 1.5 * second))


def _days(symbol: str, seed: int, count: int) -> tuple[Floats, Floats]:
    """Log price at the `count + 1` day ends from the anchor, and the volatility of each day."""
    key = _key(seed, symbol, "days")
    regimes = np.arange(count // _SHORTEST_REGIME + 1, dtype=np.uint64)
    lengths = _SHORTEST_REGIME + np.floor(-_MEAN_EXTRA * np.log(_uniform(key, 0, regimes))).astype(np.int64)
    kinds = np.floor(3.0 * _uniform(key, 1, regimes)).astype(np.int64)
    kind = np.repeat(kinds, lengths)[:count]
    volatility = _VOLATILITY[kind]
    moves = _DRIFT[kind] + volatility * _fat_normal(key, 2, np.arange(count, dtype=np.uint64), _TAIL)
    distance = np.fromiter(
        accumulate(moves.tolist(), lambda x, move: x * (1.0 - _PULL) + move, initial=0.0), np.float64, count + 1
    )
    return np.log(_level(symbol, seed)[0]) + distance, volatility


def _day_bars(symbol: str, seed: int, day: int, end_day: int, per_day: int) -> dict[str, Floats]:
    """Candle columns of the days `[day, end_day)` after the anchor, `per_day` bars each."""
    ends, volatility = _days(symbol, seed, end_day)
    key = _key(seed, symbol, f"bars{per_day}")
    shape = (end_day - day, per_day)
    counter = np.arange(day * per_day, end_day * per_day, dtype=np.uint64)
    sd = (volatility[day:] / np.sqrt(per_day))[:, None]
    start, move = ends[day:end_day, None], np.diff(ends[day:])[:, None]

    # Intraday tails are fatter than daily ones; with one bar a day the bridge has no freedom left.
    noise = sd * _fat_normal(key, 0, counter, 0.6).reshape(shape)
    walk = np.cumsum(noise, axis=1)
    share = np.arange(1, per_day + 1) / per_day
    close = start + walk - share * (walk[:, -1:] - move)
    open_ = np.concatenate([start, close[:, :-1]], axis=1)
    above, below = (np.abs(z).reshape(shape) * 0.45 * sd for z in _normal_pair(key, 2, counter))
    high = np.maximum(open_, close) + above
    low = np.minimum(open_, close) - below

    # Volume follows the size of the move: a day's total from the day's move, its parts from the bars' moves.
    daily = _activity(
        _key(seed, symbol, "volume"), np.arange(day, end_day, dtype=np.uint64), move[:, 0] / volatility[day:]
    )
    parts = _activity(key, counter, ((close - open_) / sd).ravel()).reshape(shape)
    turnover = _level(symbol, seed)[1] * daily[:, None] * parts / parts.sum(axis=1, keepdims=True)
    columns = {
        name: _on_units(np.exp(log_price).ravel())
        for name, log_price in (("open", open_), ("high", high), ("low", low), ("close", close))
    }
    typical = (columns["open"] + columns["high"] + columns["low"] + columns["close"]) / 4.0
    columns["volume"] = np.round(turnover.ravel() / typical, 8)
    columns["value"] = np.round(columns["volume"] * typical, 4)
    return columns


def _activity(key: int, counter: npt.NDArray[np.uint64], move: Floats) -> Floats:
    """Relative trading activity: log-normal, and surging with the square of the move (in standard deviations)."""
    activity: Floats = np.exp(0.35 * _normal_pair(key, 8, counter)[0]) * (0.6 + 0.4 * np.minimum(move * move, 25.0))
    return activity


def _weeks(days: dict[str, Floats]) -> dict[str, Floats]:
    by_week = {name: values.reshape(-1, 7) for name, values in days.items()}
    return {
        "open": by_week["open"][:, 0],
        "high": by_week["high"].max(axis=1),
        "low": by_week["low"].min(axis=1),
        "close": by_week["close"][:, -1],
        "volume": by_week["volume"].sum(axis=1),
        "value": by_week["value"].sum(axis=1),
    }
