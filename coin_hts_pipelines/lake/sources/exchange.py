"""Candles of a live exchange, page by page from the newest to the oldest, several pages in flight."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from coin_hts_pipelines.errors import InvalidRequest, NoCandles, TransientError
from coin_hts_pipelines.lake.candle_files import epoch_micros
from coin_hts_pipelines.lake.sources.calls import Backoff, Call
from coin_hts_pipelines.lake.sources.exchange_client import ExchangeClient, Market
from coin_hts_pipelines.lake.sources.pages import PAGE_BARS, Answer, open_pager
from coin_hts_pipelines.lake.sources.rate_limit import Limit
from coin_hts_pipelines.market import Span, Timeframe, empty_candles, normalize_symbol
from coin_hts_pipelines.market.candles import timestamp_index

T = TypeVar("T")
_Window = tuple[str, Timeframe, int, int]

# No exchange of ccxt is older.
_FIRST_YEAR = 2010


@dataclass(frozen=True)
class Page:
    """Validated candles, at most 200, and the interval `[start, end)` on the grid that they cover for good.

    The newest closed bar of the exchange is among the candles but not in the interval (which may then be empty): the
    exchange may still change it, so whoever keeps a ledger asks for it once more together with the next one. Nor is
    anything covered of a market that has fewer than two candles yet.
    """

    start: datetime
    end: datetime
    candles: pd.DataFrame


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _never() -> bool:
    return False


class ExchangeSource:
    """Candles of an exchange by its ccxt name; nothing is asked of it before somebody wants to know something.

    Parameters
    ----------
    exchange
        `upbit`, or any exchange of ccxt that has candles.
    base_url
        `http://host:port` to talk to instead of the exchange's own address.
    now
        The present, for what is closed.
    limits, limit_folder
        Of the rate limit, see `ExchangeClient`; by default the exchange's own, shared by all processes of this machine.
    backoff
        How failures are retried.
    in_flight
        Pages asked for at once.
    timeout
        Seconds to connect, and without an answer.
    """

    synthetic = False

    def __init__(
        self,
        exchange: str = "upbit",
        base_url: str | None = None,
        now: Callable[[], datetime] = _utc_now,
        *,
        limits: Sequence[Limit] | None = None,
        limit_folder: Path | None = None,
        backoff: Backoff | None = None,
        in_flight: int = 4,
        timeout: float = 10.0,
    ) -> None:
        self.name = f"exchange:{exchange}"
        self._client = ExchangeClient(
            exchange, base_url=base_url, limits=limits, limit_folder=limit_folder, timeout=timeout
        )
        self._pager = open_pager(self._client)
        self._now = now
        self._backoff = backoff or Backoff()
        self._in_flight = max(1, in_flight)
        self._had_candles: dict[tuple[str, Timeframe, int, int], bool] = {}

    # ---- what there is

    def markets(self, quote: str | None = None, cancelled: Callable[[], bool] = _never) -> list[Market]:
        """Markets of the exchange now (of one quote), sorted by symbol.

        Raises
        ------
        TransientError
            The exchange cannot be reached, or its list is empty or cannot be read, however often it was asked.
        PermanentError
            It refuses.
        """
        found = self._call(self._client.markets).wait(cancelled)
        return [market for market in found if quote is None or market.symbol.split("-")[0] == quote.upper()]

    def symbols(self) -> list[str]:
        """Symbols listed now, sorted."""
        return [market.symbol for market in self.markets() if market.listed]

    def timeframes(self, symbol: str) -> list[Timeframe]:
        """Timeframes the exchange offers, shortest first."""
        normalize_symbol(symbol)
        return self._client.timeframes

    def years(self, symbol: str, timeframe: Timeframe, span: Span) -> list[int]:
        """UTC years with candles in a span, sorted: back from its end until a year without any.

        The days tell for every shorter timeframe, so that the exchange is asked once for all of them.

        Raises
        ------
        TransientError, PermanentError
            As of `pages`.
        """
        symbol, timeframe = self._checked(symbol, timeframe)
        asked = max(timeframe, Timeframe.D1, key=lambda one: one.delta)
        low, high, _ = self._bounds(timeframe, Span(span.start or datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC), span.end))
        found: list[int] = []
        for year in reversed(range(_moment(low).year, _moment(high - 1).year + 1) if low < high else ()):
            start = max(low, epoch_micros(datetime(year, 1, 1, tzinfo=UTC)))
            end = min(high, epoch_micros(datetime(year + 1, 1, 1, tzinfo=UTC)))
            day = _floor(start, asked) if timeframe != asked else start
            key = symbol, asked, day, end
            if key not in self._had_candles:
                self._had_candles[key] = self._call(partial(self._pager.has_candles, *key)).wait(_never)
            if self._had_candles[key]:
                found.append(year)
            elif found:
                break
        return sorted(found)

    # ---- candles

    def fetch(self, symbol: str, timeframe: Timeframe, span: Span) -> pd.DataFrame:
        """Canonical, validated candles of a span, closed bars only.

        Raises
        ------
        TransientError, PermanentError
            As of `pages`.
        """
        frames = [page.candles for page in self.pages(symbol, timeframe, span) if len(page.candles)]
        return pd.concat(frames[::-1], ignore_index=True) if frames else empty_candles()

    def pages(
        self, symbol: str, timeframe: Timeframe, span: Span, cancelled: Callable[[], bool] = _never
    ) -> Iterator[Page]:
        """Pages of a span, newest first; their intervals touch, and together they are its closed bars (see `Page`).

        A consumer that merges each page and then notes its interval can go on after an interruption by asking for
        what is left.

        Raises
        ------
        TransientError
            The exchange cannot be reached or is busy, however often it was asked.
        InvalidCandles
            A page breaks a rule, however often it was asked for.
        NoCandles
            The exchange has no such timeframe.
        PermanentError
            The market is not listed (any more), or the exchange refuses.
        Cancelled
            `cancelled` said so; it is asked at least twice a second.
        """
        symbol, timeframe = self._checked(symbol, timeframe)
        if span.start is None:
            years = self.years(symbol, timeframe, span)
            if not years:
                return
            span = Span(datetime(years[0], 1, 1, tzinfo=UTC), span.end)
        low, high, closed = self._bounds(timeframe, span)
        asked = done = high
        flying: deque[tuple[_Window, Call[Answer]]] = deque()
        stop = threading.Event()
        try:
            while done > low:
                while asked > low and len(flying) < self._in_flight:
                    start = max(low, asked - PAGE_BARS * timeframe.microseconds)
                    window = symbol, timeframe, start, asked
                    flying.append((window, self._call(partial(self._pager.window, *window), stop)))
                    asked = start
                window, call = flying.popleft()
                start, end = window[2:]
                if start >= done:
                    continue
                answer = call.wait(cancelled)
                if answer.doubtful:
                    for _, other in flying:
                        other.wait_over(cancelled)
                    answer = self._call(partial(self._pager.confirm, answer, *window, closed), stop).wait(cancelled)
                if not answer.complete and done < high:
                    raise TransientError(
                        f"{self._client.exchange} has no {timeframe} candles of {symbol} any more; try again"
                    )
                start, end = max(low, answer.start), min(end, done)
                settled = min(end, closed - timeframe.microseconds) if answer.complete else start
                yield Page(_moment(start), _moment(max(start, settled)), _between(answer.candles, start, end))
                # An answer that reached back over bars without trades makes windows that were not asked for needless.
                done = start
                asked = min(asked, done)
        finally:
            stop.set()

    def _checked(self, symbol: str, timeframe: Timeframe) -> tuple[str, Timeframe]:
        offered = self._client.timeframes
        if timeframe not in offered:
            raise NoCandles(
                f"{self._client.exchange} has no {timeframe} candles; it has {', '.join(offered) or 'none'}"
            )
        return normalize_symbol(symbol), Timeframe.parse(timeframe)

    def _bounds(self, timeframe: Timeframe, span: Span) -> tuple[int, int, int]:
        """Grid points around the closed bars of a span with a start, and the end of the last closed bar of all."""
        now = self._now()
        if now.tzinfo is None or span.start is None:
            raise InvalidRequest("the present and the start of a span must be aware datetimes")
        closed = _floor(epoch_micros(now), timeframe)
        end = closed if span.end is None else min(closed, _ceil(epoch_micros(span.end), timeframe))
        return _ceil(epoch_micros(span.start), timeframe), end, closed

    def _call(self, work: Callable[[], T], stop: threading.Event | None = None) -> Call[T]:
        return Call(work, self._backoff, stop or threading.Event())


def _floor(micros: int, timeframe: Timeframe) -> int:
    offset = timeframe.grid_offset_us
    return (micros - offset) // timeframe.microseconds * timeframe.microseconds + offset


def _ceil(micros: int, timeframe: Timeframe) -> int:
    return _floor(micros + timeframe.microseconds - 1, timeframe)


def _moment(micros: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


def _between(candles: pd.DataFrame, start: int, end: int) -> pd.DataFrame:
    first, last = candles["timestamp"].searchsorted(timestamp_index(np.array([start, end], dtype=np.int64)))
    return candles.iloc[first:last].reset_index(drop=True)
