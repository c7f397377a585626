"""Pages of candles: one window of the grid asked of an exchange, read, and checked before anybody sees it.

A window is `[start, end)` in microseconds since the epoch, on the grid, of closed bars only. An answer says how far
back it is complete; whatever does not fit the question is a `BadPageError` and worth another try.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.errors import PermanentError, TransientError
from coin_hts_pipelines.lake.sources.exchange_client import ExchangeClient, RefusedError
from coin_hts_pipelines.market import CandleArrays, Timeframe, empty_candles, find_violations
from coin_hts_pipelines.market.candles import frame_of

PAGE_BARS = 200
# Before the first exchange opened.
BEGINNING = -(2**62)

_UPBIT_COLUMNS = {
    "open": "opening_price",
    "high": "high_price",
    "low": "low_price",
    "close": "trade_price",
    "volume": "candle_acc_trade_volume",
    "value": "candle_acc_trade_price",
}


class BadPageError(TransientError):
    """An answer of the exchange that breaks a rule of candles or does not fit what was asked."""


@dataclass(frozen=True)
class Answer:
    """At most `PAGE_BARS` canonical candles, complete from `start` to the end of the window that was asked for.

    `start` may lie before the window; `BEGINNING` says that the exchange has nothing earlier. A `doubtful` answer may
    be wrong although each of its candles is right; `complete` is false where nothing can be said about what is missing.
    """

    start: int
    candles: pd.DataFrame
    doubtful: bool = False
    complete: bool = True


class Pager(Protocol):
    """How candles are asked of one kind of exchange."""

    def window(self, symbol: str, timeframe: Timeframe, start: int, end: int) -> Answer:
        """Candles of a window of at most `PAGE_BARS` bars.

        Raises
        ------
        TransientError
            The exchange, the connection or the answer fails (`BadPageError`: the answer is wrong).
        PermanentError
            The market is not listed, or the exchange refuses.
        """

    def confirm(self, answer: Answer, symbol: str, timeframe: Timeframe, start: int, end: int, now: int) -> Answer:
        """Ask until a doubtful answer is certain, while nobody else asks for candles of this market and timeframe.

        `now` is the end of the last closed bar; raises as `window` does.
        """

    def has_candles(self, symbol: str, timeframe: Timeframe, start: int, end: int) -> bool:
        """Whether there is a candle in `[start, end)`, of any length."""


def open_pager(client: ExchangeClient) -> Pager:
    """Pager for an exchange: Upbit's own, or ccxt's `fetch_ohlcv`."""
    return UpbitPager(client) if client.exchange == "upbit" else CcxtPager(client)


class UpbitPager:
    """Upbit's candle endpoints, read raw: ccxt's `fetch_ohlcv` drops the turnover and what lies before the window.

    Upbit gives the newest `count` candles before `to`, so an answer reaches back over bars without trades.
    """

    def __init__(self, client: ExchangeClient) -> None:
        self._client = client

    def window(self, symbol: str, timeframe: Timeframe, start: int, end: int) -> Answer:
        """Candles of a window, and earlier ones where it has fewer than the window has bars.

        As many as were asked for, up to the window's last bar, can only be the right answer. Any other may be the
        answer to an earlier question, given again by a server or a cache in between, and is doubtful.
        """
        count = _count(timeframe, start, end)
        candles = self._ask(symbol, timeframe, end, count)
        stamps = _micros(candles)
        certain = len(stamps) == count and stamps[-1] == end - timeframe.microseconds
        return Answer(int(stamps[0]) if certain else start, candles, doubtful=not certain)

    def confirm(self, answer: Answer, symbol: str, timeframe: Timeframe, start: int, end: int, now: int) -> Answer:
        """Ask other questions that an answer given again would not fit.

        There was no trade just before `end`: then the one candle before it is the same, and one only. There is nothing
        earlier: then so it is after an answer that was not empty.
        """
        count, candles = _count(timeframe, start, end), answer.candles
        if len(candles) == count and self._is_newest(candles, symbol, timeframe, end):
            return Answer(int(_micros(candles)[0]), candles)
        latest = self._ask(symbol, timeframe, now, 2)
        if len(latest) < 2:
            return Answer(BEGINNING, latest, complete=False)
        candles = self._ask(symbol, timeframe, end, count)
        if not self._is_newest(candles, symbol, timeframe, end):
            raise BadPageError(f"upbit contradicts itself about the {timeframe} candles of {symbol} before {_iso(end)}")
        stamps = _micros(candles)
        if len(stamps) == count:
            return Answer(int(stamps[0]), candles)
        first = int(stamps[0]) if len(stamps) else end
        if len(self._ask(symbol, timeframe, first, 1)):
            raise BadPageError(f"upbit left out {timeframe} candles of {symbol} before {_iso(first)}")
        return Answer(BEGINNING, candles)

    def has_candles(self, symbol: str, timeframe: Timeframe, start: int, end: int) -> bool:
        """Whether the newest candle before `end` lies at or after `start`."""
        candles = self._ask(symbol, timeframe, end, 2)
        if (_micros(candles) >= start).any():
            return True
        if not self._is_newest(candles, symbol, timeframe, end):
            raise BadPageError(f"upbit contradicts itself about the {timeframe} candles of {symbol} before {_iso(end)}")
        return False

    def _is_newest(self, candles: pd.DataFrame, symbol: str, timeframe: Timeframe, end: int) -> bool:
        """Whether the exchange, asked for one candle before `end`, gives the last one of these (none for none)."""
        return self._ask(symbol, timeframe, end, 1).equals(candles.tail(1).reset_index(drop=True))

    def _ask(self, symbol: str, timeframe: Timeframe, end: int, count: int) -> pd.DataFrame:
        minutes = timeframe.microseconds // 60_000_000
        unit = minutes if minutes < 1440 else None
        name = f"minutes/{unit}" if unit else "days" if timeframe is Timeframe.D1 else "weeks"
        try:
            items = self._client.request(f"candles/{name}", {"market": symbol, "to": f"{_iso(end)}Z", "count": count})
        except RefusedError as error:
            if error.status == 404:
                self._client.require_listed(symbol, str(error))
            raise
        if not isinstance(items, list) or len(items) > count:
            raise BadPageError(f"upbit answered with something else than {count} {timeframe} candles of {symbol}")
        try:
            if any(item["market"] != symbol or item.get("unit") != unit for item in items):
                raise BadPageError(f"upbit answered with candles of something else than {symbol} {timeframe}")
            items = items[::-1]
            times = np.array([item["candle_date_time_utc"] for item in items], dtype="datetime64[us]")
            rows = {ours: [item[theirs] for item in items] for ours, theirs in _UPBIT_COLUMNS.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadPageError(f"upbit's {timeframe} candles of {symbol} cannot be read ({error!r})") from error
        return _checked(
            times.view(np.int64), rows, timeframe, f"upbit's {timeframe} candles of {symbol}", BEGINNING, end
        )


class CcxtPager:
    """Any exchange, by ccxt's `fetch_ohlcv`: candles from `since` on, however many the exchange gives at once."""

    def __init__(self, client: ExchangeClient) -> None:
        self._client = client

    def window(self, symbol: str, timeframe: Timeframe, start: int, end: int) -> Answer:
        """Candles of exactly the window; asked again from the last one on until nothing new comes."""
        found: list[Sequence[Any]] = []
        since = start
        while since < end:
            rows = self._ask(symbol, timeframe, since)
            try:
                new = [row for row in rows if since <= row[0] * 1000 < end]
                beyond = any(row[0] * 1000 >= end for row in rows)
            except (TypeError, IndexError) as error:
                raise BadPageError(f"{self._about(symbol, timeframe)} cannot be read ({error!r})") from error
            found += new
            if not new or beyond:
                break
            since = int(new[-1][0]) * 1000 + timeframe.microseconds
        times = np.array([row[0] for row in found], dtype=np.int64) * 1000
        names = ("open", "high", "low", "close", "volume")
        columns = {name: [row[place] for row in found] for place, name in enumerate(names, start=1)}
        return Answer(start, _checked(times, columns, timeframe, self._about(symbol, timeframe), start, end))

    def confirm(self, answer: Answer, symbol: str, timeframe: Timeframe, start: int, end: int, now: int) -> Answer:  # noqa: ARG002
        """What the answer was: nothing is known about the exchange that would make it more certain."""
        return answer

    def has_candles(self, symbol: str, timeframe: Timeframe, start: int, end: int) -> bool:
        """Whether any page of the span, newest first, has a candle."""
        size = PAGE_BARS * timeframe.microseconds
        for last in range(end, start, -size):
            if len(self.window(symbol, timeframe, max(start, last - size), last).candles):
                return True
        return False

    def _about(self, symbol: str, timeframe: Timeframe) -> str:
        return f"{self._client.exchange}'s {timeframe} candles of {symbol}"

    def _ask(self, symbol: str, timeframe: Timeframe, since: int) -> list[Sequence[Any]]:
        quote, base = symbol.split("-")
        unified = f"{base}/{quote}"
        with self._client.errors():
            exchange = self._client.ccxt
            if unified not in exchange.load_markets():
                self._client.require_listed(symbol, "it is not on ccxt's list")
            try:
                rows = exchange.fetch_ohlcv(unified, timeframe.value.lower(), since // 1000, PAGE_BARS)
            except PermanentError as error:
                self._client.require_listed(symbol, str(error))
                raise
        if not isinstance(rows, list):
            raise BadPageError(f"{self._about(symbol, timeframe)} are no list")
        return rows


def _count(timeframe: Timeframe, start: int, end: int) -> int:
    """Candles to ask for: two at least, so that the question for one is another question."""
    return max(2, (end - start) // timeframe.microseconds)


def _checked(
    times: npt.NDArray[np.int64],
    columns: dict[str, list[Any]],
    timeframe: Timeframe,
    about: str,
    start: int,
    end: int,
) -> pd.DataFrame:
    if not len(times):
        return empty_candles()
    try:
        numbers = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise BadPageError(f"{about} cannot be read ({error})") from error
    value = numbers.pop("value", None)
    arrays = CandleArrays(times, **numbers)
    # What `validate_candles` does, without its way through two frames: that took half of a page's time.
    if violations := find_violations(arrays, timeframe, value=value):
        raise BadPageError(f"{about} break a rule: {'; '.join(map(str, violations))}")
    if times[0] < start or times[-1] >= end:
        raise BadPageError(f"{about} reach to {_iso(int(times[-1]))}, but were asked for before {_iso(end)}")
    frame = frame_of(arrays)
    return frame if value is None else frame.assign(value=value)


def _micros(candles: pd.DataFrame) -> npt.NDArray[np.int64]:
    return candles["timestamp"].to_numpy(dtype="datetime64[us]").view(np.int64)


def _iso(micros: int) -> str:
    return str(np.datetime64(micros, "us").astype("datetime64[s]"))
