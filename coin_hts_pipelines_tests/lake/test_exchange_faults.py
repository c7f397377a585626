"""Whatever goes wrong at the exchange, what is kept in the end is what the exchange has."""

import tempfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.sources.calls import Backoff
from coin_hts_pipelines.lake.sources.exchange import ExchangeSource
from coin_hts_pipelines.lake.sources.pages import BEGINNING, BadPageError, UpbitPager
from coin_hts_pipelines.market import Span, Timeframe
from coin_hts_pipelines_tests.fake_upbit import FakeUpbit, Fault, Kind, ManualClock, MarketStore, made_candles

NOW = datetime(2024, 5, 15, 12, 30, 30, tzinfo=UTC)
START = NOW - timedelta(days=2)
# One try a page: every fault that can be seen ends a collection, and the next one must find the rest.
FRAIL = Backoff(attempts=1)
STURDY = Backoff(attempts=3, first=0.0005, longest=0.001)


@pytest.fixture(scope="module")
def made():
    frame = made_candles(NOW - timedelta(days=2), NOW + timedelta(hours=1))
    # An outage of some pages, and a thin market before it.
    day = (frame["timestamp"] < pd.Timestamp(NOW - timedelta(hours=30))) & (np.arange(len(frame)) % 9 > 0)
    outage = frame["timestamp"].between(NOW - timedelta(hours=30), NOW - timedelta(hours=20))
    return frame[~day & ~outage]


class Ledger:
    """Bars that are complete, on a grid of minutes."""

    def __init__(self, start, end, timeframe):
        self.start, self.size = timeframe.floor(start), timeframe.delta
        self.done = np.zeros((timeframe.floor(end) - self.start) // self.size, dtype=bool)

    def add(self, start, end):
        self.done[(start - self.start) // self.size : (end - self.start) // self.size] = True

    def missing(self):
        """Parts that are not complete, newest first."""
        open_ = np.flatnonzero(~self.done)
        parts = np.split(open_, np.flatnonzero(np.diff(open_) > 1) + 1)
        return [
            Span(self.start + int(part[0]) * self.size, self.start + (int(part[-1]) + 1) * self.size)
            for part in parts[::-1]
        ]


def collect(source, store, ledger, timeframe):
    """Ask for what is missing; what came before a failure is kept."""
    for span in ledger.missing():
        for page in source.pages("KRW-BTC", timeframe, span):
            store.merge("KRW-BTC", timeframe, page.candles, source=source.name)
            ledger.add(page.start, page.end)


faults = st.builds(
    Fault,
    st.sampled_from(list(Kind)),
    times=st.integers(1, 4),
    skip=st.integers(0, 6),
    status=st.sampled_from([418, 429, 500, 502, 503, 504]),
    seconds=st.floats(0, 0.01),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    listed=st.lists(faults, max_size=8),
    share=st.sampled_from([0.0, 0.1, 0.4]),
    seed=st.integers(0, 1000),
    timeframe=st.sampled_from([Timeframe.M1, Timeframe.M1, Timeframe.M5, Timeframe.H1]),
    in_flight=st.integers(1, 4),
    backoff=st.sampled_from([FRAIL, STURDY]),
    rounds=st.integers(1, 4),
    earlier=st.sampled_from([timedelta(0), timedelta(days=3)]),
)
def test_after_the_faults_the_store_is_the_exchange(
    made, listed, share, seed, timeframe, in_flight, backoff, rounds, earlier
):
    market = MarketStore()
    market.put("KRW-BTC", "1M", made)
    with FakeUpbit(market, clock=ManualClock(NOW)) as server, tempfile.TemporaryDirectory() as folder:
        store, ledger = CandleStore(folder), Ledger(START - earlier, NOW, timeframe)
        source = ExchangeSource(
            base_url=server.base_url, now=lambda: NOW, limits=(), backoff=backoff, in_flight=in_flight
        )
        server.faults.add(*listed)
        server.faults.draw(share, seed, seconds=0.005)
        for _ in range(rounds):
            try:
                collect(source, store, ledger, timeframe)
            except CoinHtsError:
                continue
        server.faults.clear()
        collect(ExchangeSource(base_url=server.base_url, now=lambda: NOW, limits=()), store, ledger, timeframe)
        assert ledger.done[:-1].all()
        expected = market.candles("KRW-BTC", timeframe, NOW)
        pd.testing.assert_frame_equal(store.load("KRW-BTC", timeframe), expected, check_exact=True)


# ---- answers that do not fit the question


def item(minute, **changed):
    opened = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    return {
        "market": "KRW-BTC",
        "candle_date_time_utc": f"{opened:%Y-%m-%dT%H:%M:%S}",
        "opening_price": 10.0,
        "high_price": 12.0,
        "low_price": 9.0,
        "trade_price": 11.0,
        "timestamp": 1,
        "candle_acc_trade_price": 110.0,
        "candle_acc_trade_volume": 10.0,
        "unit": 1,
    } | changed


class Script:
    """A client whose answers are written down."""

    exchange = "upbit"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def request(self, path, params):
        self.asked.append((path, params["to"][11:16], params["count"]))
        return self.answers.pop(0)


def window(*answers, bars=3, timeframe=Timeframe.M1):
    """The bars before 00:10; the last closed one is that of 00:19."""
    client, end = Script(*answers), 1_704_067_800_000_000
    pager, asked = UpbitPager(client), ("KRW-BTC", timeframe, end - bars * timeframe.microseconds, end)
    answer = pager.window(*asked)
    if answer.doubtful:
        answer = pager.confirm(answer, *asked, end + 600_000_000)
    stamps = answer.candles["timestamp"].dt.minute.tolist()
    back_to = None if answer.start == BEGINNING else (answer.start - end) // 60_000_000
    return stamps, back_to, answer.complete, client.asked


PATH = "candles/minutes/1"
FULL = [item(9), item(8), item(7)]
LATEST = [item(19), item(18)]


@pytest.mark.parametrize(
    ("answers", "bars", "found", "back_to", "asked"),
    [
        pytest.param([FULL], 3, [7, 8, 9], -3, [], id="full"),
        pytest.param([[item(9), item(8)]], 1, [8, 9], -2, [], id="one bar is asked for as two"),
        pytest.param([[item(9), item(5), item(2)]], 3, [2, 5, 9], -8, [], id="reaches back"),
        pytest.param([[item(8), item(7), item(6)], [item(8)]], 3, [6, 7, 8], -4, [("00:10", 1)], id="late"),
        pytest.param(
            [[item(2), item(1), item(0)], [item(9)], LATEST, FULL, [item(9)]],
            3,
            [7, 8, 9],
            -3,
            [("00:10", 1), ("00:20", 2), ("00:10", 3), ("00:10", 1)],
            id="the answer to an earlier question",
        ),
        pytest.param(
            [[item(9), item(8)], LATEST, [item(9), item(8)], [item(9)], []],
            3,
            [8, 9],
            None,
            [("00:20", 2), ("00:10", 3), ("00:10", 1), ("00:08", 1)],
            id="the market's beginning",
        ),
        pytest.param(
            [[], LATEST, [], [], []],
            3,
            [],
            None,
            [("00:20", 2), ("00:10", 3), ("00:10", 1), ("00:10", 1)],
            id="before the market's beginning",
        ),
        pytest.param(
            [[], LATEST, FULL, [item(9)]],
            3,
            [7, 8, 9],
            -3,
            [("00:20", 2), ("00:10", 3), ("00:10", 1)],
            id="wrongly empty",
        ),
    ],
)
def test_how_far_back_an_answer_is_complete(answers, bars, found, back_to, asked):
    assert window(*answers, bars=bars) == (
        found,
        back_to,
        True,
        [(PATH, "00:10", max(2, bars)), *((PATH, *a) for a in asked)],
    )


@pytest.mark.parametrize(("latest", "found"), [([], []), ([item(19)], [19])])
def test_of_a_market_with_less_than_two_candles_nothing_is_complete(latest, found):
    assert window([], latest)[:3] == (found, None, False)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([{"market": "KRW-BTC"}], "something else than 3 1M candles"),
        ([[*FULL, item(6)]], "something else than 3 1M candles"),
        ([[item(9), item(8), item(7, market="KRW-ETH")]], "something else than KRW-BTC 1M"),
        ([[item(9, unit=5), item(8), item(7)]], "something else than KRW-BTC 1M"),
        ([[{"market": "KRW-BTC", "unit": 1}]], "cannot be read.*candle_date_time_utc"),
        ([[item(9, candle_date_time_utc="soon")]], "cannot be read"),
        ([[item(9, candle_date_time_utc=None), item(8), item(7)]], "cannot be read|not on the 1M grid"),
        ([[item(9, trade_price="much")]], "cannot be read"),
        ([[item(9, trade_price=None)]], "close is not a finite number"),
        ([["KRW-BTC"]], "cannot be read"),
        ([[item(9, low_price=-1.0), item(8), item(7)]], "low is not above 0"),
        ([[item(9, candle_acc_trade_price=float("inf")), item(8), item(7)]], "value is not a finite number"),
        ([[item(9.5), item(8), item(7)]], "not on the 1M grid"),
        ([[item(9), item(9), item(8)]], "duplicated or unsorted"),
        ([FULL[::-1]], "duplicated or unsorted"),
        ([[item(10), item(9), item(8)]], "were asked for before 2024-01-01T00:10:00"),
        ([[], LATEST, [item(8), item(7), item(6)], [item(9)]], "contradicts itself"),
        ([[], LATEST, [item(8), item(7), item(6)], [item(8, trade_price=10.5)]], "contradicts itself"),
        ([[], LATEST, [item(8), item(7), item(6)], []], "contradicts itself"),
        ([[], LATEST, [], [item(9)]], "contradicts itself"),
        ([[], LATEST, LATEST], "were asked for before 2024-01-01T00:10:00"),
        ([[], LATEST, [item(9), item(8)], [item(9)], [item(7)]], "left out 1M candles"),
        ([[], LATEST, [item(9), item(8)], [item(9)], [item(9)]], "were asked for before 2024-01-01T00:08:00"),
    ],
)
def test_an_answer_that_does_not_fit_is_a_bad_page(answers, says):
    with pytest.raises(BadPageError, match=says):
        window(*answers)


def test_days_and_weeks_have_no_unit():
    day = item(0, candle_date_time_utc="2023-12-31T00:00:00")
    with pytest.raises(BadPageError, match="something else than KRW-BTC 1D"):
        window([day], timeframe=Timeframe.D1)
