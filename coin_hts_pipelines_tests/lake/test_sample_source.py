from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.lake import is_synthetic
from coin_hts_pipelines.lake.sources import TEN_KRW_SYMBOLS, SampleSource
from coin_hts_pipelines.lake.sources.sample import ANCHOR, _on_units
from coin_hts_pipelines.market import Span, Timeframe, empty_candles, validate_candles
from coin_hts_pipelines.strategies import get_strategy

NOW = datetime(2026, 3, 15, 10, 17, tzinfo=UTC)
SOURCE = SampleSource(now=NOW)


def span(days, before=NOW):
    return Span(before - timedelta(days=days), before)


def test_what_it_lists():
    assert SOURCE.symbols() == sorted(TEN_KRW_SYMBOLS)
    assert len(SOURCE.symbols()) == 10
    assert SOURCE.timeframes("KRW-BTC") == list(Timeframe)
    assert is_synthetic(SOURCE.name)
    assert SOURCE.synthetic
    assert SampleSource(symbols=("btc/krw",)).symbols() == ["KRW-BTC"]


@pytest.mark.parametrize("timeframe", list(Timeframe))
def test_every_closed_bar_of_a_span_is_there(timeframe):
    frame = SOURCE.fetch("KRW-BTC", timeframe, span(20))
    valid = validate_candles(frame, timeframe)
    pd.testing.assert_frame_equal(valid, frame)
    opens = frame["timestamp"]
    start, last = (NOW - timedelta(days=20)), timeframe.floor(NOW) - timeframe.delta
    first = timeframe.floor(start)
    assert opens.iloc[0] == (first if first == start else first + timeframe.delta)
    assert opens.iloc[-1] == last
    assert (opens.diff().dropna() == timeframe.delta).all()
    assert (frame["value"] > 0).all()


@pytest.mark.parametrize(
    ("timeframe", "asked", "years"),
    [
        (Timeframe.D1, Span(), list(range(2020, 2027))),
        (Timeframe.D1, Span(None, datetime(2022, 1, 1, tzinfo=UTC)), [2020, 2021]),
        (Timeframe.D1, Span(datetime(2024, 12, 31, 1, tzinfo=UTC), None), [2025, 2026]),
        (Timeframe.W1, Span(datetime(2024, 12, 30, tzinfo=UTC), datetime(2025, 1, 6, tzinfo=UTC)), [2024]),
        (Timeframe.D1, Span(NOW, None), []),
        (Timeframe.D1, Span(None, ANCHOR), []),
    ],
)
def test_years(timeframe, asked, years):
    assert SOURCE.years("KRW-BTC", timeframe, asked) == years
    frame = SOURCE.fetch("KRW-BTC", timeframe, asked)
    assert sorted(set(frame["timestamp"].dt.year)) == years
    if not years:
        pd.testing.assert_frame_equal(frame, empty_candles())


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["KRW-BTC", "KRW-DOGE", "USDT-1INCH"]),
    st.sampled_from([timeframe for timeframe in Timeframe if timeframe.delta >= timedelta(minutes=30)]),
    st.datetimes(datetime(2025, 11, 1), datetime(2026, 3, 15), timezones=st.just(UTC)),  # noqa: DTZ001
    st.timedeltas(timedelta(minutes=1), timedelta(days=40)),
    st.timedeltas(timedelta(0), timedelta(days=400)),
)
def test_a_bar_has_the_same_values_whatever_is_asked_for_and_when(symbol, timeframe, start, length, later):
    asked = Span(start, start + length)
    part = SOURCE.fetch(symbol, timeframe, asked)
    whole = SampleSource(now=NOW + later).fetch(symbol, timeframe, Span(datetime(2025, 10, 1, tzinfo=UTC), None))
    stamps = whole["timestamp"]
    closed = stamps + timeframe.delta <= NOW
    inside = whole[(stamps >= asked.start) & (stamps < asked.end) & closed].reset_index(drop=True)
    if len(part) or len(inside):
        pd.testing.assert_frame_equal(part, inside, check_exact=True)


def test_other_seeds_symbols_and_timeframes_differ():
    closes = [
        source.fetch(symbol, timeframe, span(100))["close"].to_numpy()[:14]
        for source in (SOURCE, SampleSource(now=NOW, seed=7))
        for symbol in ("KRW-BTC", "KRW-AAA", "KRW-AAB")
        for timeframe in (Timeframe.H1, Timeframe.D1)
    ]
    for i, one in enumerate(closes):
        assert not any(np.array_equal(one, other) for other in closes[:i])


def test_timeframes_meet_at_midnight_and_share_the_volume():
    days = SOURCE.fetch("KRW-ETH", Timeframe.D1, span(30))
    for timeframe in (Timeframe.M5, Timeframe.H1, Timeframe.H4):
        bars = SOURCE.fetch("KRW-ETH", timeframe, Span(days["timestamp"].iloc[0].to_pydatetime(), None))
        by_day = bars.groupby(bars["timestamp"].dt.floor("D")).agg({"open": "first", "close": "last", "value": "sum"})
        by_day = by_day.iloc[: len(days)]
        assert by_day["open"].tolist() == days["open"].tolist()
        assert by_day["close"].tolist() == days["close"].tolist()
        np.testing.assert_allclose(by_day["value"], days["value"], rtol=1e-6)


def test_weeks_are_made_of_days():
    weeks = SOURCE.fetch("KRW-SOL", Timeframe.W1, Span(None, datetime(2021, 1, 1, tzinfo=UTC)))
    days = SOURCE.fetch("KRW-SOL", Timeframe.D1, Span(datetime(2020, 1, 6, tzinfo=UTC), None)).iloc[: 7 * len(weeks)]
    assert weeks["high"].tolist() == days["high"].groupby(days.index // 7).max().tolist()
    assert weeks["close"].tolist() == days["close"].iloc[6::7].tolist()


@pytest.mark.parametrize("symbol", TEN_KRW_SYMBOLS)
def test_it_looks_like_a_market(symbol):
    days = SOURCE.fetch(symbol, Timeframe.D1, Span())
    returns = np.diff(np.log(days["close"]))
    kurtosis = np.mean((returns - returns.mean()) ** 4) / returns.var() ** 2
    assert 0.02 < returns.std() < 0.06
    assert kurtosis > 4, "fat tails"
    assert np.corrcoef(np.abs(returns), days["volume"][1:])[0, 1] > 0.3, "volume surges with big moves"
    assert days["high"].max() / days["low"].min() < 60
    hours = SOURCE.fetch(symbol, Timeframe.H1, span(90))
    assert returns.std() / np.diff(np.log(hours["close"])).std() == pytest.approx(np.sqrt(24), rel=0.6)


@pytest.mark.parametrize("strategy", ["volume_long_candle", "volume_zone_breakout"])
@pytest.mark.parametrize(("timeframe", "days"), [(Timeframe.D1, 730), (Timeframe.H1, 90)])
def test_the_strategies_fire_sometimes(strategy, timeframe, days):
    frames = [SOURCE.fetch(symbol, timeframe, span(days)) for symbol in SOURCE.symbols()]
    shares = [get_strategy(strategy).signals(frame, {}).mean() for frame in frames]
    assert 0.001 < np.mean(shares) < 0.5
    assert all(share < 0.9 for share in shares)


@pytest.mark.parametrize(
    ("price", "rounded"),
    [
        (89_435_499.0, 89_435_000.0),
        (2_000_700.0, 2_001_000.0),
        (1_000_249.0, 1_000_000.0),
        (500_160.0, 500_200.0),
        (100_030.0, 100_050.0),
        (10_004.0, 10_000.0),
        (1_000.4, 1_000.0),
        (999.96, 1_000.0),
        (123.44, 123.4),
        (12.346, 12.35),
        (1.2346, 1.235),
        (0.12346, 0.1235),
        (0.00001, 0.0001),
    ],
)
def test_price_units(price, rounded):
    assert _on_units(np.array([price]))[0] == rounded


def test_symbols_that_are_none_are_refused():
    with pytest.raises(InvalidRequest):
        SOURCE.fetch("../x", Timeframe.D1, Span())
