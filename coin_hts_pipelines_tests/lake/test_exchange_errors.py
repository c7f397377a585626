"""Refusals and failures of an exchange: what is tried again, and what a person is told of the rest."""

import itertools
import re
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import ccxt
import pandas as pd
import pytest
import requests

from coin_hts_pipelines.errors import Cancelled, InvalidCandles, InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.lake.sources.calls import Backoff
from coin_hts_pipelines.lake.sources.exchange import ExchangeSource
from coin_hts_pipelines.market import Span, Timeframe
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, Fault, Kind, ManualClock, MarketStore
from coin_hts_pipelines_tests.lake.test_exchange_source import (
    NOW,
    QUICK,
    _no_faults,
    dense,
    made,
    open_source,
    same,
    server,
    source,
    truth,
)

__all__ = ["_no_faults", "dense", "made", "server", "source"]


@pytest.mark.parametrize(
    ("symbol", "timeframe", "error", "says"),
    [
        ("KRW-OLD", "1M", PermanentError, r"KRW-OLD is not listed \(any more\) on upbit .*404: Code not found"),
        ("KRW-NEVER", "1D", PermanentError, r"KRW-NEVER is not listed \(any more\) on upbit .*404: Code not found"),
        ("../etc", "1D", InvalidRequest, "not valid"),
    ],
)
def test_a_market_that_is_not_there(server, source, symbol, timeframe, error, says):
    with pytest.raises(error, match=says):
        source.fetch(symbol, Timeframe(timeframe), Span(NOW - timedelta(days=3), None))
    candle_requests = [request for request in server.requests if "candles" in request.path]
    assert len(candle_requests) <= 4  # those in flight: none is tried again


def test_a_listed_market_without_trades_has_no_candles_and_nothing_of_it_is_complete(source):
    [page] = source.pages("KRW-NEW", Timeframe.H1, Span(NOW - timedelta(days=100), NOW - timedelta(days=1)))
    assert page.candles.empty
    assert page.start == page.end
    assert source.fetch("KRW-NEW", Timeframe.H1, Span(NOW - timedelta(days=100), None)).empty


def test_the_first_candle_of_a_market_is_handed_on(made):
    with FakeUpbit(MarketStore(), clock=ManualClock(NOW)) as young:
        young.market.put("KRW-BTC", "1M", made[made["timestamp"] < pd.Timestamp(NOW)][-2:])  # one is not closed
        [page] = open_source(young).pages("KRW-BTC", Timeframe.M1, Span(NOW - timedelta(days=1), None))
        assert len(page.candles) == 1
        assert page.start == page.end


def test_a_market_that_is_listed_but_unknown_gives_the_exchange_s_own_words(server, source):
    server.faults.add(Fault(Kind.VANISHED))
    with pytest.raises(PermanentError, match=r"^upbit answered 404: Code not found$"):
        source.fetch("KRW-BTC", Timeframe.M1, Span(NOW - timedelta(minutes=5), None))


def test_a_market_that_vanishes_is_not_listed_any_more(server, source):
    server.faults.add(Fault(Kind.VANISHED, times=None, market="KRW-BTC"))
    with pytest.raises(PermanentError, match=r"KRW-BTC is not listed \(any more\)"):
        source.fetch("KRW-BTC", Timeframe.M1, Span(NOW - timedelta(minutes=5), None))


def test_the_exchange_s_refusal_is_permanent_in_its_own_words(source):
    with pytest.raises(PermanentError, match=r"^upbit answered 400: specified unit is not valid\.$"):
        source._call(lambda: source._client.request("candles/minutes/7", {"market": "KRW-BTC"})).wait(lambda: False)


ONCE = {
    "latency": Fault(Kind.LATENCY, seconds=0.01),
    "reset before": Fault(Kind.RESET_BEFORE),
    "reset in the middle": Fault(Kind.RESET_MIDDLE),
    "reset at the end": Fault(Kind.RESET_END),
    "truncated": Fault(Kind.TRUNCATED_JSON),
    "a page of HTML": Fault(Kind.HTML_PAGE),
    "duplicated": Fault(Kind.DUPLICATED),
    "reordered": Fault(Kind.REORDERED),
    "wrong value": Fault(Kind.WRONG_VALUE),
    "the page before": Fault(Kind.REPEATED_PAGE),
    **{f"status {status}": Fault(Kind.STATUS, status=status) for status in (418, 429, 500, 502, 503, 504)},
}


@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE.keys())
@pytest.mark.parametrize("skip", [0, 3])
def test_a_passing_fault_leaves_no_trace(server, source, fault, skip):
    server.faults.add(Fault(**{**vars(fault), "skip": skip, "times": 2}))
    span = Span(NOW - timedelta(days=1), NOW)
    same(source.fetch("KRW-BTC", Timeframe.M1, span), truth(server, "KRW-BTC", "1M", span.start, span.end))
    assert not server.faults.waiting


# What lasts: the error it ends in.
LASTING = {
    "reset before": (Fault(Kind.RESET_BEFORE), TransientError, "upbit: .*onnection"),
    "reset in the middle": (Fault(Kind.RESET_MIDDLE), TransientError, "upbit: "),
    "truncated": (Fault(Kind.TRUNCATED_JSON), TransientError, "something else than JSON"),
    "a page of HTML": (Fault(Kind.HTML_PAGE), TransientError, "something else than JSON: Under maintenance; gave"),
    "duplicated": (Fault(Kind.DUPLICATED), InvalidCandles, "something else than 200 1M candles"),
    "reordered": (Fault(Kind.REORDERED), InvalidCandles, "duplicated or unsorted"),
    "wrong value": (Fault(Kind.WRONG_VALUE), InvalidCandles, r"high is below open or close: 1 row \(2024-"),
    **{
        f"status {status}": (Fault(Kind.STATUS, status=status), TransientError, f"upbit answered {status}: ")
        for status in (418, 429, 500, 502, 503, 504)
    },
}


@pytest.mark.parametrize(("fault", "error", "says"), LASTING.values(), ids=LASTING.keys())
def test_a_lasting_fault_ends_in_an_error_that_names_it(server, fault, error, says):
    server.faults.add(Fault(**{**vars(fault), "times": None}))
    with pytest.raises(error, match=says) as caught:
        open_source(server, in_flight=1).fetch("KRW-BTC", Timeframe.M1, Span(NOW - timedelta(days=1), None))
    assert isinstance(caught.value, PermanentError) is (error is InvalidCandles)
    assert "gave up after 4 attempts" in str(caught.value)
    assert len(server.requests) == 4


def test_pages_before_a_failure_are_handed_on(server):
    server.faults.add(Fault(Kind.STATUS, skip=3, times=None))
    pages = open_source(server, in_flight=1).pages("KRW-FULL", Timeframe.M1, Span(NOW - timedelta(days=1), NOW))
    assert len(list(itertools.islice(pages, 3))) == 3
    with pytest.raises(TransientError):
        next(pages)


def test_nobody_home():
    with FakeUpbit(MarketStore()) as gone:
        url = gone.base_url
    with pytest.raises(TransientError, match="gave up after 2 attempts"):
        ExchangeSource(base_url=url, limits=(), backoff=Backoff(2, first=0.001)).markets()


def test_an_answer_that_does_not_come_is_asked_for_again(server):
    server.faults.add(Fault(Kind.LATENCY, seconds=30.0))
    source = open_source(server, timeout=0.3, in_flight=1)
    assert len(source.fetch("KRW-FULL", Timeframe.M1, Span(NOW - timedelta(minutes=5), None))) == 4


@pytest.mark.parametrize(
    ("fault", "backoff"),
    [
        pytest.param(Fault(Kind.LATENCY, seconds=60.0, times=None), QUICK, id="while it waits for an answer"),
        pytest.param(Fault(Kind.STATUS, times=None), Backoff(first=60.0), id="between two attempts"),
    ],
)
def test_a_cancel_is_heard(made, fault, backoff):
    asked = []

    def cancelled():
        asked.append(threading.get_ident())
        return len(asked) == 4

    with FakeUpbit(MarketStore(), clock=ManualClock(NOW)) as stuck:
        stuck.market.put("KRW-BTC", "1M", made)
        stuck.faults.add(fault)
        source = open_source(stuck, backoff=backoff, timeout=60.0)
        with pytest.raises(Cancelled):
            list(source.pages("KRW-BTC", Timeframe.M1, Span(NOW - timedelta(days=1), None), cancelled))
    assert set(asked) == {threading.get_ident()}


def test_a_cancel_is_heard_while_pages_come_fast(source):
    answers = iter([False, False, True])
    pages = source.pages("KRW-FULL", Timeframe.M1, Span(NOW - timedelta(days=1), NOW), lambda: next(answers))
    assert len(list(itertools.islice(pages, 2))) == 2
    with pytest.raises(Cancelled):
        next(pages)


def test_a_consumer_that_stops_leaves_no_thread_at_work(server):
    server.faults.add(Fault(Kind.STATUS, skip=1, times=None))
    source = open_source(server, backoff=Backoff(first=60.0), in_flight=2)
    with pytest.raises(Cancelled):
        list(
            source.pages("KRW-FULL", Timeframe.M1, Span(NOW - timedelta(days=1), NOW), lambda: len(server.requests) > 1)
        )
    # The fixture waits for the threads, one of which is in a pause of a minute.


def test_a_doubtful_answer_is_confirmed_when_nobody_else_is_asking(made):
    with FakeUpbit(MarketStore(), clock=ManualClock(NOW)) as server:
        server.market.put("KRW-BTC", "1M", made[made["timestamp"] < pd.Timestamp(NOW - timedelta(minutes=5))])
        server.faults.add(Fault(Kind.LATENCY, skip=1, seconds=0.3))
        source = open_source(server, in_flight=2)
        list(source.pages("KRW-BTC", Timeframe.M1, Span(NOW - timedelta(minutes=300), None)))
        assert [request.params["count"] for request in server.requests[:2]].count("1") == 0
        assert server.requests[2].params["count"] == "1"


@pytest.mark.parametrize(
    ("error", "cause", "kind"),
    [
        ("ExchangeError", requests.exceptions.ContentDecodingError("broken gzip"), TransientError),
        ("ExchangeError", requests.exceptions.SSLError("handshake"), TransientError),
        ("ExchangeError", requests.exceptions.TooManyRedirects("in circles"), PermanentError),
        ("ExchangeError", requests.exceptions.InvalidURL("no host"), PermanentError),
        ("ExchangeError", None, PermanentError),
        ("BadSymbol", None, PermanentError),
        ("AuthenticationError", None, PermanentError),
        ("NetworkError", ConnectionResetError("reset"), TransientError),
        ("RequestTimeout", requests.exceptions.ReadTimeout("slow"), TransientError),
        ("DDoSProtection", None, TransientError),
        ("OnMaintenance", None, TransientError),
    ],
)
def test_what_ccxt_s_errors_are(source, error, cause, kind):
    with pytest.raises(kind, match=re.escape(str(cause or "said so"))), source._client.errors():
        raise getattr(ccxt, error)("said so") from cause


# ---- what is told of a body

NGINX = "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body><hr>nginx</body>\r\n</html>"
BLOCKED = """<!DOCTYPE html>
<!--[if lt IE 7]> <html class="ie6"> old > <![endif]-->
<html lang="en"><head>
<style>
  body { color: red }
</style><SCRIPT async>
if (1 < 2) alert("x")
</SCRIPT >
  <title>Attention Required! &amp;
  Cloudflare</title>
<link
  rel="x">
</head><body>Sorry, you have been blocked</body></html>"""
LONG = "<p>" + "word " * 100_000

# Status and body; what is said of them.
BODIES = {
    "message": (400, '{"error":{"name":400,"message":"Type mismatch error."}}', "400: Type mismatch error."),
    "name alone": (401, '{"error":{"name":"no_authorization"}}', "401: no_authorization"),
    "message of several lines": (400, '{"error":{"message":"one\\n  two\\u001b[31m"}}', "400: one two [31m"),
    "long message": (400, '{"error":{"message":"' + "x" * 500 + '"}}', f"400: {'x' * 119}…"),
    "others' JSON": (
        400,
        '{\n  "code": -1121,\n  "msg": "Invalid symbol."\n}',
        '{ "code": -1121, "msg": "Invalid symbol." }',
    ),
    "a list": (400, '["EQuery:Unknown asset pair"]', '400: ["EQuery:Unknown asset pair"]'),
    "error is text": (400, '{"error":"nonsense"}', '400: {"error":"nonsense"}'),
    "a proxy's page": (503, NGINX, "503: 503 Service Temporarily Unavailable"),
    "a block page": (403, BLOCKED, "403: Attention Required! &"),
    "a page on one line": (502, "<h1>502</h1><p>Bad <b>Gateway</b></p>", "502: 502 Bad Gateway"),
    "a tag that does not end": (500, "down<a href=", "500: down"),
    "text": (500, "\n\n  upstream  connect error\nreset reason: overflow\n", "500: upstream connect error"),
    "no tags": (500, "1 < 2 and 3 > 2", "500: 1 < 2 and 3 > 2"),
    "megabytes": (500, LONG, f"500: {('word ' * 24)[:119]}…"),
    "nothing": (500, "", "500: Internal Server Error"),
    "nothing but tags": (404, "<html></html>", "404: Not Found"),
    "a page that pretends": (200, BLOCKED, "something else than JSON: Attention Required! &"),
    "half of a long JSON": (200, '[{"market":"KRW-BTC",\n' * 90, 'something else than JSON: [{"market":"KRW-BTC",'),
    "success without a body": (200, "", "something else than JSON: nothing"),
}


class OneAnswer(BaseHTTPRequestHandler):
    """Answers everything with the same status and body."""

    def do_GET(self):
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        """Nobody reads it."""


@pytest.fixture
def one_answer():
    with ThreadingHTTPServer(("127.0.0.1", 0), OneAnswer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "body", "says"), BODIES.values(), ids=BODIES.keys())
def test_what_is_told_of_a_body_is_one_short_line(one_answer, status, body, says):
    one_answer.answer = status, body
    source = ExchangeSource(
        base_url=f"http://127.0.0.1:{one_answer.server_port}", limits=(), backoff=Backoff(1, first=0.001)
    )
    with pytest.raises(TransientError if status in (200, 500, 502, 503) else PermanentError) as caught:
        source.markets()
    said = str(caught.value).removesuffix("; gave up after 1 attempts")
    assert said.startswith("upbit answered ")
    assert said.endswith(says)
    assert said.isprintable()
    assert len(said) < 170


def test_a_connection_that_fails_is_told_with_its_reason():
    with ThreadingHTTPServer(("127.0.0.1", 0), OneAnswer) as closed:
        port = closed.server_port
    source = ExchangeSource(base_url=f"http://127.0.0.1:{port}", limits=(), backoff=Backoff(1, first=0.001))
    with pytest.raises(TransientError, match=f"127.0.0.1.*{port}.*Connection refused") as caught:
        source.markets()
    assert "Max retries" not in str(caught.value)
    assert len(str(caught.value)) < 200
