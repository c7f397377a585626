"""Upbit's JSON to the letter: candles, market list and error bodies, with the headers around them.

Shapes as recorded (`upbit_api` of the shared data) where there is a recording: days, minutes, the bodies of 404 and of
a wrong unit, the headers; the ETag is `W/"0` and the body's MD5. From Upbit's documents and others' notes: weeks,
months, the market list, missing and mistyped parameters, the route error. Nobody's record: 418, 429, count 0 or less.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache

import numpy as np

from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines_tests.fake_upbit.market_store import MONTH, Market, Series

JSON = "application/json;charset=UTF-8"
HTML = "text/html"
MINUTES = {
    "1": Timeframe.M1,
    "3": Timeframe.M3,
    "5": Timeframe.M5,
    "10": Timeframe.M10,
    "15": Timeframe.M15,
    "30": Timeframe.M30,
    "60": Timeframe.H1,
    "240": Timeframe.H4,
}
PERIODS: dict[str, str] = {"days": Timeframe.D1, "weeks": Timeframe.W1, "months": MONTH}
_CAUTIONS = (
    "PRICE_FLUCTUATIONS",
    "TRADING_VOLUME_SOARING",
    "DEPOSIT_AMOUNT_SOARING",
    "GLOBAL_PRICE_DIFFERENCES",
    "CONCENTRATION_OF_SMALL_ACCOUNTS",
)
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 418: "I'm a teapot", 429: "Too Many Requests"}
_REASONS |= {500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}
_KST_US = 9 * 3_600_000_000


@dataclass(frozen=True)
class Answer:
    """Status and body; `remaining` is what the header says is left of the group's second."""

    status: int
    body: str
    group: str | None = None
    remaining: int = 0
    content_type: str = JSON


# ---- errors


def error_body(name: str | int, message: str) -> str:
    """Body of an error; the quotation API names it by its status."""
    return json.dumps({"error": {"name": name, "message": message}}, separators=(",", ":"))


MISSING = error_body(400, "Missing request parameter error. Check the required parameters!")
MISTYPED = error_body(400, "Type mismatch error. Check the parameters type!")
INVALID = error_body(400, "Invalid parameter. Check the given value!")
WRONG_UNIT = error_body(400, "specified unit is not valid.")
UNKNOWN_CODE = error_body(404, "Code not found")
NO_ROUTE = error_body("not_found", "no Route matched with those values")
TOO_MANY = error_body("too_many_requests", "Too many API requests.")
BANNED = error_body("too_many_requests", "Too many API requests. Blocked for 60 seconds.")
INTERNAL = error_body("server_error", "Internal server error.")
PAGE = "<html>\n<head><title>{0}</title></head>\n<body>\n<center><h1>{0}</h1></center>\n</body>\n</html>\n"


def failure(status: int, group: str | None) -> Answer:
    """Answer of a server in trouble, a gateway before it, or a limit."""
    if status >= 502:
        return Answer(status, PAGE.format(f"{status} {_REASONS[status]}"), content_type=HTML)
    return Answer(status, {418: BANNED, 429: TOO_MANY}.get(status, INTERNAL), group)


# ---- bodies


def _minute_number(value: float) -> str:
    text = repr(value)
    return f"{value:.8f}" if "e" in text else text


def _period_number(value: float) -> str:
    text = repr(value)
    if "e" in text:
        return f"{value:.8f}"
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction:0<8}"


def candle_rows(series: Series, market: str, path: str) -> list[str]:
    """JSON objects of all candles of a series, newest first; `path` is `minutes/1`, `days`, `weeks` or `months`."""
    utc, kst = (
        np.datetime_as_string((series.opened + shift).view("datetime64[us]").astype("datetime64[s]")).tolist()
        for shift in (0, _KST_US)
    )
    unit = path.removeprefix("minutes/")
    number = _minute_number if unit.isdigit() else _period_number
    columns = zip(utc, kst, series.values.tolist(), series.traded_ms.tolist(), series.previous.tolist(), strict=True)
    rows = []
    for at, local, values, traded, before in columns:
        o, h, low, c, volume, value = map(number, values)
        match path:
            case "days":
                change = round(values[3] - before, 8) + 0.0  # no negative zero
                last = (
                    f'"prev_closing_price":{number(before)},"change_price":{number(change)},'
                    f'"change_rate":{change / before:.10f}'
                )
            case "weeks" | "months":
                last = f'"first_day_of_period":"{at[:10]}"'
            case _:
                last = f'"unit":{unit}'
        rows.append(
            f'{{"market":"{market}","candle_date_time_utc":"{at}","candle_date_time_kst":"{local}",'
            f'"opening_price":{o},"high_price":{h},"low_price":{low},"trade_price":{c},"timestamp":{traded},'
            f'"candle_acc_trade_price":{value},"candle_acc_trade_volume":{volume},{last}}}'
        )
    rows.reverse()
    return rows


@lru_cache(maxsize=512)
def finished_rows(series: Series, market: str, path: str, start: int, stop: int) -> tuple[str, ...]:
    """`candle_rows` of a part of a series, kept: a page is asked for again at every tick."""
    return tuple(candle_rows(series.part(start, stop), market, path))


def candle_list(rows: Collection[str]) -> str:
    """Body of a page of candles."""
    return f"[{','.join(rows)}]"


def market_list(markets: Collection[Market], *, details: bool) -> str:
    """Body of the market list."""
    rows = []
    for market in markets:
        row: dict[str, object] = {
            "market": market.symbol,
            "korean_name": market.korean_name,
            "english_name": market.english_name,
        }
        if details:
            row["market_event"] = {"warning": market.warning, "caution": dict.fromkeys(_CAUTIONS, False)}
        rows.append(row)
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


# ---- the bytes of an answer


@lru_cache(maxsize=512)
def _encoded(body: str, zipped: bool) -> tuple[bytes, str]:
    plain = body.encode()
    etag = f'W/"0{hashlib.md5(plain).hexdigest()}"'
    return gzip.compress(plain, compresslevel=1, mtime=0) if zipped else plain, etag


def encode(answer: Answer, now: datetime, *, zipped: bool) -> tuple[bytes, bytes]:
    """Head and body as they go over the wire, headers in the recorded order."""
    body, etag = _encoded(answer.body, zipped)
    head = [
        f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}",
        f"date: {format_datetime(now, usegmt=True)}",
        f"content-type: {answer.content_type}",
        f"content-length: {len(body)}",
    ]
    if zipped:
        head.append("content-encoding: gzip")
    if answer.group is not None:
        # `min` is a constant: Upbit no longer counts it down.
        head += [f"remaining-req: group={answer.group}; min=600; sec={answer.remaining}", "limit-by-ip: Yes"]
    head.append("vary: origin,access-control-request-method,access-control-request-headers,accept-encoding")
    if answer.status == 200 and answer.content_type == JSON:
        head += ["expires: 0", f"etag: {etag}"]
        head += ["cache-control: no-cache, no-store, max-age=0, must-revalidate", "pragma: no-cache"]
    return ("\r\n".join(head) + "\r\n\r\n").encode(), body
