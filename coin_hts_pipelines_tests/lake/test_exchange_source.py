"""The exchange source against the fake Upbit: what it asks for, what it hands on, what there is."""

import itertools
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from coin_hts_pipelines.errors import InvalidRequest, NoCandles, PermanentError, TransientError
from coin_hts_pipelines.lake.sources.calls import Backoff
from coin_hts_pipelines.lake.sources.exchange import ExchangeSource, Page
from coin_hts_pipelines.lake.sources.exchange_client import Market, _note_answer
from coin_hts_pipelines.lake.sources.pages import CcxtPager
from coin_hts_pipelines.lake.sources.rate_limit import RateLimiter
from coin_hts_pipelines.market import Span, Timeframe, validate_candles
from coin_hts_pipelines_tests.fake_upbit import (
    FakeUpbit,
    Fault,
    Kind,
    ManualClock,
    MarketStore,
    RateLimit,
    made_candles,
)

NOW = datetime(2024, 5, 15, 12, 30, 30, tzinfo=UTC)
# Nobody should wait for a test.
QUICK = Backoff(attempts=4, first=0.001, longest=0.002)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def made():
    return made_candles(NOW - timedelta(days=10), NOW + timedelta(days=1), price=90_000_000.0)


@pytest.fixture(scope="module")
def dense():
    return made_candles(NOW - timedelta(days=2), NOW, gaps=False)


@pytest.fixture(scope="module")
def server(made, dense):
    market = MarketStore()
    market.put("KRW-BTC", "1M", made)
    market.put("KRW-FULL", "1M", dense)
    hole = (made["timestamp"] < pd.Timestamp(NOW - timedelta(days=8))) | (
        made["timestamp"] >= pd.Timestamp(NOW - timedelta(days=1))
    )
    market.put("KRW-HOLE", "1M", made[hole])
    market.put("KRW-DAYS", "1D", made_candles(datetime(2021, 11, 3, tzinfo=UTC), NOW, "1D"))
    market.list("KRW-NEW", english_name="New", warning=True)
    market.list("BTC-ETH")
    market.put("KRW-OLD", "1M", made[-50:])
    market.delist("KRW-OLD")
    with FakeUpbit(market, clock=ManualClock(NOW)) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_faults(server):
    yield
    server.faults.clear()
    # Pages that were in flight when nobody wanted them any more must not meet the next test's faults.
    for thread in threading.enumerate():
        if thread.name == "exchange_call":
            thread.join(20)
            assert not thread.is_alive()
    server.forget_requests()


@pytest.fixture
def source(server):
    return open_source(server)


def open_source(server, **options):
    options = {"limits": (), "backoff": QUICK, "now": lambda: NOW} | options
    return ExchangeSource(base_url=server.base_url, **options)


def truth(server, symbol, timeframe, start=None, end=None):
    frame = server.market.candles(symbol, timeframe, NOW)
    inside = pd.Series(True, index=frame.index)
    if start is not None:
        inside &= frame["timestamp"] >= pd.Timestamp(start)
    if end is not None:
        inside &= frame["timestamp"] < pd.Timestamp(end)
    return frame[inside].reset_index(drop=True)


def same(left, right):
    pd.testing.assert_frame_equal(left, right, check_exact=True)


# ---- what it hands on


@pytest.mark.parametrize("timeframe", list(Timeframe))
@pytest.mark.parametrize("in_flight", [1, 4])
def test_every_timeframe_is_what_the_server_has(server, timeframe, in_flight):
    start = NOW - timedelta(days=3 if timeframe.delta < timedelta(hours=1) else 100)
    frame = open_source(server, in_flight=in_flight).fetch("KRW-BTC", timeframe, Span(start, None))
    assert len(frame)
    same(frame, truth(server, "KRW-BTC", timeframe, start))
    same(frame, validate_candles(frame, timeframe))


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (NOW - timedelta(hours=20), NOW - timedelta(hours=1)),  # off the grid on both sides
        (NOW - timedelta(hours=20), NOW + timedelta(hours=1)),
        (NOW - timedelta(minutes=3), None),
        (NOW.replace(second=0) - MINUTE, None),  # the newest closed bar alone
        (NOW.replace(second=0), None),  # the one that is not closed
        (NOW + timedelta(days=1), NOW + timedelta(days=2)),
        (NOW - timedelta(days=9), NOW - timedelta(days=9) + timedelta(minutes=200)),
        (NOW - timedelta(days=12), NOW - timedelta(days=11)),  # before the market's beginning
        (NOW - timedelta(days=12), NOW - timedelta(days=9)),
        (None, NOW - timedelta(days=9)),
        (None, None),
    ],
)
def test_a_span_is_cut_as_asked(server, source, start, end):
    frame = source.fetch("krw-btc", Timeframe.M1, Span(start, end))
    expected = truth(server, "KRW-BTC", "1M", start, end)
    assert frame["timestamp"].equals(expected["timestamp"])
    if len(expected):
        same(frame, expected)


def test_pages_touch_and_leave_only_the_newest_bar_open(server, source):
    low, high = NOW.replace(second=0) - timedelta(days=1), NOW.replace(second=0)
    pages = list(source.pages("KRW-BTC", Timeframe.M1, Span(low, None)))
    assert all(isinstance(page, Page) and len(page.candles) <= 200 for page in pages)
    assert pages[0].end == high - MINUTE
    assert pages[0].candles["timestamp"].iloc[-1] == pd.Timestamp(high - MINUTE)
    assert pages[-1].start == low
    for newer, older in itertools.pairwise(pages):
        assert newer.start == older.end
    for page in pages[1:]:
        assert page.candles["timestamp"].between(page.start, page.end, inclusive="left").all()
        same(page.candles, truth(server, "KRW-BTC", "1M", page.start, page.end))


def test_a_past_span_is_covered_whole(source):
    start = NOW.replace(second=0) - timedelta(days=1)
    pages = list(source.pages("KRW-BTC", Timeframe.M1, Span(start, start + timedelta(hours=1))))
    assert [(page.start, page.end) for page in pages] == [(start, start + timedelta(hours=1))]


def test_the_newest_bar_alone_covers_nothing(source):
    [page] = source.pages("KRW-FULL", Timeframe.M1, Span(NOW - timedelta(seconds=90), None))
    assert page.start == page.end == NOW.replace(second=0) - MINUTE
    assert len(page.candles) == 1


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_dense_day_costs_a_request_a_page(server, in_flight):
    high = NOW.replace(second=0)
    source = open_source(server, in_flight=in_flight)
    assert len(source.fetch("KRW-FULL", Timeframe.M1, Span(high - timedelta(days=1), high))) == 1440
    assert len(server.requests) == 8
    assert [int(request.params["count"]) for request in server.requests].count(200) == 7


def test_a_hole_and_the_time_before_the_listing_cost_little(server):
    # Ten days of hole are 72 pages, the seven years before the market's beginning 18,000.
    source = open_source(server, in_flight=1)
    frame = source.fetch("KRW-HOLE", Timeframe.M1, Span(datetime(2017, 1, 1, tzinfo=UTC), None))
    same(frame, truth(server, "KRW-HOLE", "1M"))
    assert len(server.requests) < len(frame) / 200 * 1.3 + 10


def test_an_interrupted_fetch_goes_on_where_it_stopped(server, source):
    span = Span(NOW.replace(second=0) - timedelta(days=1), NOW.replace(second=0) - timedelta(hours=1))
    begun = open_source(server, in_flight=1).pages("KRW-FULL", Timeframe.M1, span)
    first = [next(begun), next(begun)]
    begun.close()
    server.forget_requests()
    rest = list(source.pages("KRW-FULL", Timeframe.M1, Span(span.start, first[-1].start)))
    frames = [page.candles for page in [*first, *rest]]
    same(pd.concat(frames[::-1], ignore_index=True), truth(server, "KRW-FULL", "1M", span.start, span.end))
    assert len(server.requests) == 5


def test_a_candle_that_changed_afterwards_is_new_when_it_is_asked_for_again(server, source):
    server.faults.add(Fault(Kind.REVISED))
    span = Span(NOW - timedelta(minutes=10), None)
    before = source.fetch("KRW-FULL", Timeframe.M1, span)
    after = source.fetch("KRW-FULL", Timeframe.M1, span)
    assert not before.equals(after)
    same(after, truth(server, "KRW-FULL", "1M", span.start))


# ---- what there is


def test_what_it_is(source):
    assert (source.name, source.synthetic) == ("exchange:upbit", False)
    assert source.timeframes("KRW-BTC") == list(Timeframe)
    assert source.symbols() == ["BTC-ETH", "KRW-BTC", "KRW-DAYS", "KRW-FULL", "KRW-HOLE", "KRW-NEW"]


@pytest.mark.parametrize(("quote", "count"), [(None, 6), ("KRW", 5), ("krw", 5), ("BTC", 1), ("USDT", 0)])
def test_markets_of_a_quote(source, quote, count):
    found = source.markets(quote)
    assert len(found) == count
    assert quote is None or all(market.symbol.startswith(f"{quote.upper()}-") for market in found)


def test_a_market_says_what_the_exchange_warns_of(source):
    markets = {market.symbol: market for market in source.markets("KRW")}
    assert markets["KRW-NEW"] == Market("KRW-NEW", "New", listed=True, warning=True)
    assert not markets["KRW-BTC"].warning


def test_an_empty_market_list_is_not_believed():
    with FakeUpbit(MarketStore()) as empty, pytest.raises(TransientError, match="empty market list; gave up after 4"):
        open_source(empty).markets()


@pytest.mark.parametrize(
    ("timeframe", "start", "end", "years"),
    [
        ("1D", None, None, [2021, 2022, 2023, 2024]),
        ("1W", None, None, [2021, 2022, 2023, 2024]),
        ("1D", datetime(2022, 12, 31, tzinfo=UTC), datetime(2023, 2, 1, tzinfo=UTC), [2022, 2023]),
        ("1D", datetime(2022, 12, 31, 15, tzinfo=UTC), datetime(2023, 2, 1, tzinfo=UTC), [2023]),
        ("1D", None, datetime(2021, 11, 3, tzinfo=UTC), []),
        ("1D", datetime(2024, 5, 15, tzinfo=UTC), None, []),
        ("1D", datetime(2024, 5, 14, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC), [2024]),
    ],
)
@pytest.mark.parametrize("pager", ["upbit", "ccxt"])
def test_years(source, pager, timeframe, start, end, years):
    if pager == "ccxt":
        source._pager = CcxtPager(source._client)
    assert source.years("KRW-DAYS", Timeframe(timeframe), Span(start, end)) == years


def test_the_days_tell_the_years_of_shorter_timeframes_once(server, source):
    span = Span(datetime(2017, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC))
    assert source.years("KRW-DAYS", Timeframe.H1, span) == [2021, 2022, 2023]
    asked = len(server.requests)
    assert source.years("KRW-DAYS", Timeframe.M5, span) == [2021, 2022, 2023]
    assert len(server.requests) == asked
    assert source.years("KRW-NEW", Timeframe.M5, span) == []


# ---- rate limit


def test_the_limit_of_the_exchange_is_kept(made, tmp_path):
    market = MarketStore()
    market.put("KRW-BTC", "1M", made)
    with FakeUpbit(market, clock=ManualClock(NOW), limit=RateLimit()) as limited:
        source = open_source(limited, limits=None, limit_folder=tmp_path, backoff=Backoff())
        source.fetch("KRW-BTC", Timeframe.M1, Span(NOW - timedelta(days=3), None))
        assert len(limited.requests) > 15
        assert {request.status for request in limited.requests} == {200}
    [path] = tmp_path.glob("*.rate")
    assert path.name.startswith("upbit@127.0.0.1_")


class Frozen:
    def __call__(self):
        return 0.0


@pytest.mark.parametrize(
    ("per_second", "fault", "free", "seconds"),
    [
        (10, None, 9, 1.05),
        (4, None, 3, 1.05),  # the server says that only three are left
        (1, None, 0, 1.05),
        (10, Fault(Kind.STATUS, status=429), 0, 1.0),
        (10, Fault(Kind.STATUS, status=418), 0, 10.0),
    ],
)
def test_what_the_answer_says_about_the_limit_is_heeded(made, tmp_path, monkeypatch, per_second, fault, free, seconds):
    # The limiter's clock stands still: how much is free does not depend on how fast this machine is.
    monkeypatch.setattr(RateLimiter.__init__, "__kwdefaults__", {"clock": Frozen()})
    with FakeUpbit(MarketStore(), limit=RateLimit(per_second, clock=Frozen())) as limited:
        limited.market.put("KRW-BTC", "1M", made)
        if fault:
            limited.faults.add(Fault(**{**vars(fault), "path": "/v1/market"}))
        source = open_source(limited, limits=None, limit_folder=tmp_path, backoff=Backoff(attempts=1))
        if fault:
            with pytest.raises(TransientError):
                source.markets()
        else:
            source.markets()
        [path] = tmp_path.glob("*.rate")
        limiter = RateLimiter(path, source._client._limiter(source._client.ccxt).limits)
        taken = 0
        while (wait := limiter.take()) == 0.0:
            taken += 1
        assert taken == free
        assert wait >= seconds


@pytest.mark.parametrize(("said", "seconds"), [("7", 7.0), ("soon", 1.0), ("99999", 600.0)])
def test_retry_after_is_heeded(tmp_path, said, seconds):
    limiter = RateLimiter(tmp_path / "x.rate", (), clock=Frozen())
    _note_answer(limiter, 429, {"Retry-After": said})
    assert limiter.take() == seconds


# ---- other exchanges


@pytest.mark.parametrize("timeframe", [Timeframe.M1, Timeframe.H1, Timeframe.D1, Timeframe.W1])
def test_any_exchange_by_ccxt_alone(server, source, timeframe):
    source._pager = CcxtPager(source._client)
    start = NOW - timedelta(days=2 if timeframe is Timeframe.M1 else 100)
    frame = source.fetch("KRW-BTC", timeframe, Span(start, None))
    same(frame, truth(server, "KRW-BTC", timeframe, start).drop(columns="value"))


@pytest.mark.parametrize("symbol", ["KRW-OLD", "KRW-NEVER"])
def test_ccxt_s_list_tells_what_is_listed_too(server, source, symbol):
    source._pager = CcxtPager(source._client)
    with pytest.raises(PermanentError, match=r"is not listed \(any more\)"):
        source.fetch(symbol, Timeframe.M1, Span(NOW - timedelta(days=1), None))


def test_ccxt_s_market_list_as_markets(source):
    found = {market.symbol: market for market in source._client._ccxt_markets()}
    assert found["KRW-BTC"] == Market("KRW-BTC")
    assert len(found) == 6


class Rows:
    """An exchange of ccxt that gives what it was told to, in this order."""

    exchange = "odd"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.ccxt = self
        self.asked = []

    def errors(self):
        import contextlib

        return contextlib.nullcontext()

    def load_markets(self):
        return {"BTC/KRW": {}}

    def fetch_ohlcv(self, symbol, timeframe, since, limit):
        self.asked.append(since)
        return self.answers.pop(0)


def rows(*minutes):
    return [[minute * 60_000, 2.0, 3.0, 1.0, 2.0, 5.0] for minute in minutes]


@pytest.mark.parametrize(
    ("answers", "found", "asked"),
    [
        ([rows(0, 1, 2, 3, 4)], [0, 1, 2, 3, 4], [0]),
        ([rows(0, 1), rows(2, 3), rows(4)], [0, 1, 2, 3, 4], [0, 2, 4]),  # fewer at once than asked for
        ([rows(0, 1), []], [0, 1], [0, 2]),
        ([rows(0, 1), rows(0, 1)], [0, 1], [0, 2]),  # the same again for ever
        ([rows(0, 1), rows(1)], [0, 1], [0, 2]),  # backwards
        ([rows(0, 1, 7, 8)], [0, 1], [0]),  # beyond the window: nothing in between
        ([rows(0, 2, 4, 5)], [0, 2, 4], [0]),
        ([rows(-3, -2, 0), rows(0)], [0], [0, 1]),
        ([[]], [], [0]),
        ([rows(7, 8)], [], [0]),
    ],
)
def test_ccxt_pages_end_whatever_the_exchange_gives(answers, found, asked):
    exchange = Rows(*answers)
    answer = CcxtPager(exchange).window("KRW-BTC", Timeframe.M1, 0, 5 * 60_000_000)
    stamps = answer.candles["timestamp"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    assert (stamps // 60_000_000).tolist() == found
    assert [since // 60_000 for since in exchange.asked] == asked


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (rows(1, 0), "duplicated or unsorted"),
        (rows(0, 0), "duplicated or unsorted"),
        (rows(0.5), "not on the 1M grid"),
        ([[0, 2.0, 1.0, 1.0, 2.0, 5.0]], "high is below"),
        ([[0, None, 3.0, 1.0, 2.0, 5.0]], "open is not a finite number"),
        ([["x", 2.0]], "cannot be read"),
        ([[]], "cannot be read"),
        ([7], "cannot be read"),
        ({"a": 1}, "are no list"),
    ],
)
def test_ccxt_pages_that_break_a_rule(answer, says):
    from coin_hts_pipelines.lake.sources.pages import BadPageError

    with pytest.raises(BadPageError, match=says):
        CcxtPager(Rows(answer, [])).window("KRW-BTC", Timeframe.M1, 0, 5 * 60_000_000)


def test_an_exchange_without_candles():
    with pytest.raises(NoCandles, match="bitflyer has no 1H candles"):
        ExchangeSource("bitflyer").fetch("JPY-BTC", Timeframe.H1, Span(NOW, None))


def test_an_exchange_without_such_a_timeframe():
    with pytest.raises(NoCandles, match="kraken has no 10M candles; it has 1M, 5M"):
        ExchangeSource("kraken").fetch("USD-BTC", Timeframe.M10, Span(NOW, None))


@pytest.mark.parametrize("name", ["nowhere", "Exchange", "errors", "__name__"])
def test_an_exchange_ccxt_does_not_know(name):
    with pytest.raises(InvalidRequest, match=f"exchange '{name}' is unknown"):
        ExchangeSource(name).markets()


@pytest.mark.parametrize("url", ["", "localhost:80", "ftp://x", "http://"])
def test_a_base_url_that_is_none(url):
    with pytest.raises(InvalidRequest, match="base URL"):
        ExchangeSource(base_url=url)


def test_naive_times_are_refused(source):
    with pytest.raises(InvalidRequest, match="aware"):
        ExchangeSource(now=lambda: NOW.replace(tzinfo=None)).fetch("KRW-BTC", Timeframe.M1, Span(NOW, None))


def test_importing_the_source_does_not_import_ccxt():
    script = (
        "import sys; from coin_hts_pipelines.lake.sources.exchange import ExchangeSource; ExchangeSource();"
        "print(sorted({'ccxt', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
