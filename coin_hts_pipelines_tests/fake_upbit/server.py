"""The HTTP server: routes, parameters, faults carried out and every request recorded. Not here: what the JSON is."""

from __future__ import annotations

import json
import random
import re
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from coin_hts_pipelines.lake.candle_files import epoch_micros
from coin_hts_pipelines_tests.fake_upbit.answers import (
    HTML,
    INVALID,
    MINUTES,
    MISSING,
    MISTYPED,
    NO_ROUTE,
    PAGE,
    PERIODS,
    UNKNOWN_CODE,
    WRONG_UNIT,
    Answer,
    candle_list,
    candle_rows,
    encode,
    failure,
    finished_rows,
    market_list,
)
from coin_hts_pipelines_tests.fake_upbit.clock import RunningClock
from coin_hts_pipelines_tests.fake_upbit.faults import Fault, FaultSchedule, Kind
from coin_hts_pipelines_tests.fake_upbit.market_store import MarketStore
from coin_hts_pipelines_tests.fake_upbit.rate_limit import RateLimit

MARKETS = "/v1/market/all"
CANDLES = "/v1/candles/"
MOST = 200
_TO = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:?\d{2})?")
_RESETS = {Kind.RESET_BEFORE, Kind.RESET_MIDDLE, Kind.RESET_END}


@dataclass(frozen=True)
class Recorded:
    """One request: when (the exchange's clock), what, the status (None: no answer) and the fault it met."""

    at: datetime
    path: str
    params: dict[str, str]
    status: int | None
    fault: Kind | None


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        self.status, self.body = status, body


class FakeUpbit:
    """Upbit's quotation API on 127.0.0.1, from `start` (or `with`) to `stop`.

    Parameters
    ----------
    market
        What it serves; may be changed while it runs.
    port
        0 is a free one.
    clock
        The exchange's time: candles after it are not there yet, the one it lies in is partial.
    limit
        Rate limit; None has none.
    """

    def __init__(
        self,
        market: MarketStore,
        *,
        port: int = 0,
        clock: Callable[[], datetime] | None = None,
        limit: RateLimit | None = None,
        faults: FaultSchedule | None = None,
    ) -> None:
        self.market = market
        self.clock = clock or RunningClock()
        self.limit = limit
        self.faults = faults or FaultSchedule()
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._requests: list[Recorded] = []
        self._pages: dict[tuple[str, str], tuple[str, ...]] = {}
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def base_url(self) -> str:
        """Address without `/v1`, as ccxt wants it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> FakeUpbit:
        """Begin to answer."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End, open connections included."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections()
        self._thread.join()

    def __enter__(self) -> FakeUpbit:
        return self.start()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    @property
    def requests(self) -> list[Recorded]:
        """Every request so far, in the order they were answered in."""
        with self._lock:
            return list(self._requests)

    def forget_requests(self) -> None:
        """Begin the record anew."""
        with self._lock:
            self._requests.clear()

    def record(self, request: Recorded) -> None:
        """Note a request."""
        with self._lock:
            self._requests.append(request)

    # ---- answers

    def answer(self, path: str, params: dict[str, str], fault: Fault | None, now: datetime) -> tuple[Answer, bool]:
        """Answer a request, and whether the fault made a difference to it."""
        group = "market" if path == MARKETS else "candles" if path.startswith(CANDLES) else None
        if fault is not None and fault.kind is Kind.STATUS:
            return failure(fault.status, group), True
        if group is None:
            return Answer(404, NO_ROUTE), False
        left = 9 if self.limit is None else self.limit.take(group)
        if left is None:
            return failure(429, group), False
        gone = fault.market if fault is not None and fault.kind is Kind.VANISHED else None
        try:
            if group == "market":
                body, hit = self._markets(params, gone), gone is not None
            elif fault is not None and fault.kind is Kind.VANISHED:
                raise _Refused(404, UNKNOWN_CODE)
            else:
                body, hit = self._candles(path, params, fault, now)
        except _Refused as refused:
            vanished = fault is not None and fault.kind is Kind.VANISHED
            return Answer(refused.status, refused.body, group, left), vanished
        if fault is not None and fault.kind is Kind.TRUNCATED_JSON:
            return Answer(200, body[: len(body) // 2], group, left), True
        if fault is not None and fault.kind is Kind.HTML_PAGE:
            return Answer(200, PAGE.format("Under maintenance"), group, left, HTML), True
        return Answer(200, body, group, left), hit

    def _markets(self, params: dict[str, str], gone: str | None) -> str:
        # `isDetails` is the older spelling, still accepted.
        asked = params.get("isDetails", params.get("is_details", "false")).lower()
        if asked not in ("true", "false"):
            raise _Refused(400, MISTYPED)
        return market_list([row for row in self.market.listed() if row.symbol != gone], details=asked == "true")

    def _candles(self, path: str, params: dict[str, str], fault: Fault | None, now: datetime) -> tuple[str, bool]:
        market, endpoint = params.get("market", "").upper(), path.removeprefix(CANDLES)
        if not market:
            raise _Refused(400, MISSING)
        count, until = _count(params.get("count", "1")), _until(params.get("to", ""))
        timeframe = _timeframe(endpoint)
        if not self.market.is_listed(market):
            raise _Refused(404, UNKNOWN_CODE)
        series, now_us = self.market.series(market, timeframe), epoch_micros(now)
        until_us = now_us if until is None else min(epoch_micros(until), now_us)
        finished = series.finished(now_us)
        stop = min(finished, int(np.searchsorted(series.opened, until_us, side="left")))
        partial = series.unfinished(now_us)
        newest = [] if partial is None or partial.opened[0] >= until_us else candle_rows(partial, market, endpoint)
        start = max(0, stop - count + len(newest))
        page = (*newest, *finished_rows(series, market, endpoint, start, stop))
        # Only the candle that has just ended may still change; it stands behind the partial one.
        latest = len(newest) if start < stop == finished else None
        with self._lock:
            before = self._pages.get((endpoint, market), page)
            served = page if fault is None else _spoilt(page, before, fault, latest)
            self._pages[endpoint, market] = served
        return candle_list(served), served != page


def _count(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,9}", text):
        raise _Refused(400, MISTYPED)
    if int(text) < 1:
        raise _Refused(400, INVALID)
    return min(int(text), MOST)  # as measured: more than 200 silently gives 200


def _until(text: str) -> datetime | None:
    if not text:
        return None
    try:
        if not _TO.fullmatch(text):
            raise ValueError(text)
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _Refused(400, INVALID) from None


def _timeframe(endpoint: str) -> str:
    kind, _, unit = endpoint.partition("/")
    if kind == "minutes" and unit:
        if not unit.isdigit():
            raise _Refused(400, MISTYPED)
        if unit not in MINUTES:
            raise _Refused(400, WRONG_UNIT)
        return MINUTES[unit]
    if endpoint not in PERIODS:
        raise _Refused(404, NO_ROUTE)
    return PERIODS[endpoint]


def _spoilt(page: tuple[str, ...], before: tuple[str, ...], fault: Fault, latest: int | None) -> tuple[str, ...]:
    """What a fault makes of a page of candles."""
    if not page:
        return page
    middle, rows = len(page) // 2, list(page)
    match fault.kind:
        case Kind.REPEATED_PAGE:
            return before
        case Kind.DUPLICATED:
            rows.insert(middle, rows[middle])
        case Kind.REORDERED:
            random.Random(len(rows)).shuffle(rows)  # none of the 199 lengths keeps its order
        case Kind.WRONG_VALUE:
            low = json.loads(rows[middle])["low_price"]
            rows[middle] = re.sub(r'(?<="high_price":)[^,]+', f"{low / 2:.8f}", rows[middle])
        case Kind.REVISED if latest is not None:
            candle = json.loads(rows[latest])
            half = f"{candle['candle_acc_trade_volume'] / 2:.8f}"
            text = re.sub(r'(?<="candle_acc_trade_volume":)[^,]+', half, rows[latest])
            rows[latest] = re.sub(r'(?<="trade_price":)[^,]+', f"{candle['opening_price']:.8f}", text)
    return tuple(rows)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128
    fake: FakeUpbit

    def __init__(self, *args: Any) -> None:
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        """End the connections clients keep alive, so that their threads end."""
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # the client, or a reset, was faster
                    continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        """The record is kept by the server."""

    def do_GET(self) -> None:
        fake, url = self.server.fake, urlsplit(self.path)
        params = dict(parse_qsl(url.query, keep_blank_values=True))
        now = fake.clock()
        fault = fake.faults.next(url.path, params.get("market", "").upper() or None, now)
        kind = None if fault is None else fault.kind
        if kind is Kind.LATENCY and fault is not None:
            fake.stopping.wait(fault.seconds)
        if kind is Kind.RESET_BEFORE:
            fake.record(Recorded(now, url.path, params, None, kind))
            self._reset()
            return
        answer, hit = fake.answer(url.path, params, fault, now)
        hit = hit or kind is Kind.LATENCY or kind in _RESETS
        fake.record(Recorded(now, url.path, params, answer.status, kind if hit else None))
        zipped = "gzip" in self.headers.get("accept-encoding", "")
        head, body = encode(answer, now, zipped=zipped)
        try:
            # One write: two would wait for the client's delayed acknowledgement.
            self.wfile.write(head + (body[: len(body) // 2] if kind is Kind.RESET_MIDDLE else body))
        except ConnectionError:
            self.close_connection = True
        if kind in _RESETS:
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        # Lingering for no time at all makes the kernel send RST where FIN would do; the file object has to go first,
        # for it keeps the socket open.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client went away between two requests
            self.close_connection = True
