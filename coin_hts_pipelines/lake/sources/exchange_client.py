"""One exchange by ccxt: its address, its session, its market list, and its refusals as this package's errors.

ccxt describes the exchange, builds and sends the requests. Its own rate limiter is replaced by one that knows of other
processes, and its classing of answers by the HTTP status: ccxt takes Upbit's 429 for a lasting error, and a cut-off
answer for text. Not here: which candles are asked for (`pages`) and how often (`exchange`).
"""

from __future__ import annotations

import html
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coin_hts_pipelines.errors import InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.lake.sources.rate_limit import Limit, RateLimiter
from coin_hts_pipelines.market import Timeframe, normalize_symbol

# Upbit's rules, of requests; of others ccxt knows milliseconds a request and its cost.
_LIMITS = {"upbit": (Limit(10, 1.0), Limit(600, 60.0))}
_REMAINING = {"sec": 1.0, "min": 60.0}
_TRANSIENT_STATUS = (408, 418, 425, 429)
# Upbit answers 418 when 429 was not heeded, and blocks for a while.
_HOLD_SECONDS = {418: 10.0, 429: 1.0}
# What a person sees of an answer: a page of a gateway may be megabytes.
_SHOWN, _READ = 120, 20_000
_NO_TEXT = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|</?[a-z!][^>]*(?:>|\Z)", re.DOTALL | re.IGNORECASE
)

# How the present thread waits: cancellable where somebody may cancel.
waiting: ContextVar[Callable[[float], object]] = ContextVar("waiting", default=time.sleep)


class RefusedError(PermanentError):
    """The exchange refuses a request; `status` is that of its answer."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Market:
    """One market of an exchange; `warning` and `cautions` are the exchange's own."""

    symbol: str
    name: str = ""
    listed: bool = True
    warning: bool = False
    cautions: tuple[str, ...] = ()


def shared_folder() -> Path:
    """Folder of what all processes of this user and machine share."""
    return Path(tempfile.gettempdir()) / f"coin-hts-{os.getuid()}"


class ExchangeClient:
    """An exchange of ccxt, usable from several threads; ccxt is imported when it is first asked.

    Parameters
    ----------
    exchange
        ccxt's name of it.
    base_url
        `http://host:port` to talk to instead.
    limits
        Instead of the exchange's own; an empty sequence is no limit.
    limit_folder
        Where the file of the rate limit is; None is a folder all processes of this user and machine share.
    timeout
        Seconds to connect, and without an answer.
    """

    def __init__(
        self,
        exchange: str,
        *,
        base_url: str | None = None,
        limits: Sequence[Limit] | None = None,
        limit_folder: Path | None = None,
        timeout: float = 10.0,
    ) -> None:
        if base_url is not None and (
            urlsplit(base_url).scheme not in {"http", "https"} or not urlsplit(base_url).netloc
        ):
            raise InvalidRequest(f"base URL {base_url!r} of {exchange} is not valid; give http://host[:port]")
        self.exchange = exchange
        self._base_url = base_url
        self._limits = limits
        self._limit_folder = limit_folder
        self._timeout = timeout

    @cached_property
    def ccxt(self) -> Any:
        """The exchange object of ccxt.

        Raises
        ------
        InvalidRequest
            ccxt knows no such exchange.
        """
        import ccxt  # noqa: PLC0415 - a quarter of a second, and only who fetches needs it

        if self.exchange not in ccxt.exchanges:
            raise InvalidRequest(
                f"exchange {self.exchange!r} is unknown; accepted: upbit, binance or another name that ccxt knows"
            )
        made = getattr(ccxt, self.exchange)({"timeout": int(self._timeout * 1000), "enableRateLimit": True})
        if self._base_url is not None:
            made.urls["api"] = _moved(made.urls["api"], self._base_url.rstrip("/"))
        limiter = self._limiter(made)
        by_request, plain_json = self.exchange in _LIMITS, made.parse_json

        def throttle(cost: float | None = None) -> None:
            if limiter is not None:
                limiter.acquire(waiting.get(), 1 if by_request else max(1, round(cost or 1)))

        def on_rest_response(
            status: int, reason: str, _url: str, _method: str, headers: Mapping[str, str], body: str, *_: object
        ) -> str:
            if limiter is not None:
                _note_answer(limiter, status, headers)
            if status >= 400:
                said = f"{self.exchange} answered {status}: {_message(body, plain_json) or _one_line(reason)}"
                raise (
                    TransientError(said) if status >= 500 or status in _TRANSIENT_STATUS else RefusedError(said, status)
                )
            return body.strip()

        def parse_json(body: str) -> Any:
            parsed = plain_json(body)
            if parsed is None:
                raise TransientError(
                    f"{self.exchange} answered with something else than JSON: {_text(body) or 'nothing'}"
                )
            return parsed

        made.throttle, made.on_rest_response, made.parse_json = throttle, on_rest_response, parse_json
        return made

    def _limiter(self, exchange: Any) -> RateLimiter | None:
        limits = self._limits
        if limits is None:
            seconds = max(1.0, exchange.rateLimit / 1000)
            limits = _LIMITS.get(self.exchange, (Limit(max(1, int(seconds * 1000 / exchange.rateLimit)), seconds),))
        if not limits:
            return None
        place = "" if self._base_url is None else "@" + re.sub(r"[^\w.-]", "_", urlsplit(self._base_url).netloc)
        return RateLimiter((self._limit_folder or shared_folder()) / f"{self.exchange}{place}.rate", limits)

    @property
    def timeframes(self) -> list[Timeframe]:
        """Timeframes the exchange has candles of, shortest first."""
        # ccxt writes a minute 1m and a month 1M.
        # Some exchanges have none.
        return [timeframe for timeframe in Timeframe if timeframe.value.lower() in (self.ccxt.timeframes or {})]

    def request(self, path: str, params: Mapping[str, object]) -> Any:
        """Answer to a public GET request, as parsed JSON.

        Raises
        ------
        TransientError
            The exchange is busy or down, or the connection or the answer broke off.
        RefusedError, PermanentError
            It refuses the request.
        """
        with self.errors():
            return self.ccxt.request(path, ["public"], "GET", dict(params))

    def markets(self) -> list[Market]:
        """Markets of the exchange now, sorted by symbol; spot only.

        Raises
        ------
        TransientError
            As of `request`, or the list is empty.
        PermanentError
            The exchange refuses.
        """
        found = self._upbit_markets() if self.exchange == "upbit" else self._ccxt_markets()
        if not found:
            raise TransientError(f"{self.exchange} answered with an empty market list")
        return sorted(found, key=lambda market: market.symbol)

    def require_listed(self, symbol: str, said: str) -> None:
        """Raise PermanentError, with what the exchange said, unless a symbol is on the market list now."""
        if not any(market.symbol == symbol and market.listed for market in self.markets()):
            raise PermanentError(f"{symbol} is not listed (any more) on {self.exchange} ({said})")

    def _upbit_markets(self) -> list[Market]:
        items = self.request("market/all", {"isDetails": "true"})
        try:
            return list({item["market"]: _upbit_market(item) for item in items}.values())
        except (KeyError, TypeError, AttributeError, InvalidRequest) as error:
            raise TransientError(f"upbit's market list cannot be read ({error!r})") from error

    def _ccxt_markets(self) -> list[Market]:
        with self.errors():
            loaded = self.ccxt.load_markets(True)
        found = {}
        for market in loaded.values():
            try:
                symbol = normalize_symbol(f"{market['quote']}-{market['base']}")
            except InvalidRequest:
                continue
            if market.get("spot"):
                found[symbol] = Market(symbol, listed=market.get("active") is not False)
        return list(found.values())

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn ccxt's exceptions into TransientError and PermanentError."""
        import ccxt  # noqa: PLC0415
        import requests  # noqa: PLC0415

        try:
            yield
        except ccxt.BaseError as error:
            cause = error.__cause__
            # urllib3 packs the reason of a failed connection into a line about its pool.
            reason = getattr(cause.args[0], "reason", None) if cause is not None and cause.args else None
            text = f"{self.exchange}: {_one_line(str(reason or cause or error), 2 * _SHOWN)}"
            lasting = requests.TooManyRedirects, requests.URLRequired, ValueError
            broken = isinstance(cause, requests.RequestException) and not isinstance(cause, lasting)
            raise (TransientError if broken or isinstance(error, ccxt.OperationFailed) else PermanentError)(
                text
            ) from error


def _moved(urls: Any, base_url: str) -> Any:
    """Addresses of ccxt (text, or a tree of it) at another host."""
    if isinstance(urls, dict):
        return {name: _moved(value, base_url) for name, value in urls.items()}
    return re.sub(r"^\w+://[^/]+", lambda _: base_url, urls) if isinstance(urls, str) else urls


def _note_answer(limiter: RateLimiter, status: int, headers: Mapping[str, str]) -> None:
    said = re.findall(r"(min|sec)=(\d+)", headers.get("Remaining-Req", ""))
    if said:
        limiter.note_remaining({_REMAINING[unit]: int(left) for unit, left in said})
    if status in _HOLD_SECONDS:
        asked = headers.get("Retry-After", "")
        limiter.hold(float(asked) if asked.isdecimal() else _HOLD_SECONDS[status])


def _one_line(text: str, most: int = _SHOWN) -> str:
    """Text of somebody else as one short line that does nothing to a terminal."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:_READ]).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _message(body: str, parse: Callable[[str], Any]) -> str:
    parsed = parse(body)
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else None
    said = error.get("message") or error.get("name") if isinstance(error, dict) else None
    return _text(body) if parsed is None else _one_line(str(said or body))


def _text(body: str) -> str:
    """First line that a person would read of a body, tags removed."""
    text = html.unescape(_NO_TEXT.sub(" ", body[:_READ]))
    return _one_line(next(filter(str.strip, text.splitlines()), ""))


def _upbit_market(item: Mapping[str, Any]) -> Market:
    event = item.get("market_event") or {}
    cautions = tuple(sorted(name for name, on in (event.get("caution") or {}).items() if on))
    warning = bool(event.get("warning")) or item.get("market_warning", "NONE") != "NONE"
    return Market(normalize_symbol(item["market"]), str(item.get("english_name", "")), True, warning, cautions)
