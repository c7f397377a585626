"""What the quality checks find, and what they leave alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Span, Timeframe, empty_candles
from coin_hts_pipelines.market.quality import (
    Agreement,
    Difference,
    Stale,
    compare_timeframes,
    find_outliers,
    find_stale,
)
from coin_hts_pipelines.market.resample import resample
from coin_hts_pipelines_tests.lake.helpers import candles

LATER = datetime(2030, 1, 1, tzinfo=UTC)
DAY = datetime(2024, 1, 1, tzinfo=UTC)


# ---- outliers


def of_ranges(ranges: list[float]) -> pd.DataFrame:
    frame = candles(len(ranges)).assign(open=1000.0, close=1000.0, low=1000.0)
    return frame.assign(high=1000.0 + np.asarray(ranges, dtype=np.float64))


def found_at(frame: pd.DataFrame, **options: float) -> list[int]:
    return [(outlier.opened - DAY).days for outlier in find_outliers(frame, **options)]


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        pytest.param([1.0] * 30 + [20.0] + [1.0] * 5, [], id="twenty times is not more than twenty times"),
        pytest.param([1.0] * 30 + [20.1] + [1.0] * 5, [30], id="more than twenty times"),
        pytest.param([1.0] * 20 + [50.0], [20], id="twenty bars before it are enough"),
        pytest.param([1.0] * 19 + [50.0] + [1.0] * 30, [], id="nineteen are not"),
        pytest.param([1.0] * 30 + [50.0] * 3, [30, 31, 32], id="one outlier does not hide the next"),
        pytest.param(
            [1.0] * 200 + [50.0] * 200, [*range(200, 250)], id="a calm market that gets wild is the norm soon"
        ),
        pytest.param([50.0] * 10 + [1.0] * 30 + [21.0], [40], id="wild beginnings do not raise the median"),
        pytest.param([0.0] * 300, [], id="a market that stands still"),
        pytest.param([0.0, 0.0, 0.0, 1.0] * 30 + [15.0], [], id="bars without a range leave the median as it is"),
        pytest.param([0.0, 0.0, 0.0, 1.0] * 30 + [25.0], [120], id="and so does one in a quiet market"),
        pytest.param([], [], id="no candles"),
    ],
)
def test_outliers(ranges: list[float], expected: list[int]) -> None:
    assert found_at(of_ranges(ranges) if ranges else empty_candles()) == expected


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 11.0, 30.0, 900.0]), max_size=90), st.integers(2, 40))
def test_outliers_are_those_of_the_definition(ranges: list[float], window: int) -> None:
    expected = []
    for i, one in enumerate(ranges):
        before = [r for r in ranges[max(0, i - window) : i] if r > 0]
        if len(before) >= min(window, 20) and one > 20 * float(np.median(before)):
            expected.append(i)
    assert found_at(of_ranges(ranges) if ranges else empty_candles(), window=window) == expected


def test_an_outlier_does_not_look_ahead() -> None:
    rng = np.random.default_rng(3)
    ranges = (rng.lognormal(0, 1.5, 400)).tolist()
    found = found_at(of_ranges(ranges))
    assert found
    for bars in (found[0], found[0] + 1, 200, 399):
        assert found_at(of_ranges(ranges[:bars])) == [place for place in found if place < bars]


def test_an_outlier_says_what_it_is() -> None:
    (outlier,) = find_outliers(of_ranges([1.0] * 30 + [1234.5]), times=1000)
    assert (outlier.opened, outlier.range, outlier.times) == (DAY + timedelta(days=30), 1234.5, 1234.5)
    assert str(outlier) == "2024-01-31 00:00: range 1,234.5, 1,234 times the median before it"


def test_real_outliers_are_the_days_everybody_remembers(shared_data: Path) -> None:
    store = CandleStore(shared_data / "candles")
    # The night of martial law in Korea; the ruling on XRP.
    for symbol, opened in (
        ("KRW-BTC", "2024-12-03 13:00"),
        ("KRW-ETH", "2024-12-03 13:00"),
        ("KRW-XRP", "2023-07-13 18:00"),
    ):
        found = find_outliers(store.load(symbol, "1H"))
        assert f"{max(found, key=lambda one: one.times).opened:%Y-%m-%d %H:%M}" == opened
        assert len(found) < 20
    assert find_outliers(store.load("KRW-BTC", "1D")) == []


# ---- stale series


@pytest.mark.parametrize(
    ("last", "now", "covered", "expected"),
    [
        pytest.param(3, "2024-01-05T00:00", [], None, id="the latest closed bar is there"),
        pytest.param(3, "2024-01-05T23:59", [], None, id="the bar of today is not closed"),
        pytest.param(3, "2024-01-06T00:00", [], (5, 1), id="one behind"),
        pytest.param(3, "2024-01-09T07:00", [], (8, 4), id="four behind"),
        pytest.param(3, "2024-01-04T00:00", [], None, id="ahead of the clock"),
        pytest.param(3, "2024-01-09T07:00", [(0, 8)], None, id="not traded is not stale"),
        pytest.param(3, "2024-01-09T07:00", [(0, 6)], (8, 2), id="asked for up to the day before yesterday"),
        pytest.param(3, "2024-01-09T07:00", [(7, 20)], (8, 3), id="a part never asked for"),
    ],
)  # the days count from 0
def test_stale(last: int, now: str, covered: list[tuple[int, int]], expected: tuple[int, int] | None) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    spans = [Span(DAY + timedelta(days=one), DAY + timedelta(days=two)) for one, two in covered]
    opened = DAY + timedelta(days=last)
    found = find_stale(opened, Timeframe.D1, moment, spans)
    if expected is None:
        assert found is None
    else:
        day, bars = expected
        assert found == Stale(opened, DAY + timedelta(days=day - 1), bars)
        assert str(found) == (
            f"last bar 2024-01-{last + 1:02d} 00:00, expected 2024-01-{day:02d} 00:00 UTC "
            f"({bars} {'bar' if bars == 1 else 'bars'})"
        )


# ---- agreement between timeframes


def compared(hourly: pd.DataFrame, daily: pd.DataFrame, known: list[Span] | None = None) -> Agreement:
    return compare_timeframes(hourly, Timeframe.H1, daily, Timeframe.D1, now=LATER, known=known or [])


def both(bars: int = 24 * 10, *, value: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    hourly = candles(bars, timeframe="1H", value=value)
    return hourly, resample(hourly, Timeframe.H1, Timeframe.D1, now=LATER)


def test_timeframes_of_the_same_trades_agree() -> None:
    assert compared(*both()) == Agreement(10)
    assert compared(*both(value=True)) == Agreement(10)


@pytest.mark.parametrize("field", ["open", "high", "low", "close", "volume", "value"])
@pytest.mark.parametrize("factor", [0.5, 1 - 1e-6, 1 + 1e-6, 1.01])
def test_a_field_that_differs_is_named(field: str, factor: float) -> None:
    hourly, daily = both(value=True)
    daily.loc[[2, 5, 6, 9], field] *= factor
    (difference,) = compared(hourly, daily).differences
    assert (difference.field, difference.bars) == (field, 4)
    assert difference.largest == pytest.approx(abs(1 - factor) / max(1.0, factor), rel=1e-6)
    assert difference.first == tuple(DAY + timedelta(days=day) for day in (2, 5, 6))


def test_rounding_is_no_difference_and_zero_equals_zero() -> None:
    hourly, daily = both()
    daily["volume"] *= 1 + 1e-12
    assert compared(hourly, daily) == Agreement(10)
    assert compared(hourly.assign(volume=0.0), daily.assign(volume=0.0)) == Agreement(10)
    (difference,) = compared(hourly.assign(volume=0.0), daily).differences
    assert (difference.bars, difference.largest) == (10, 1.0)


def test_only_common_bars_with_all_their_parts_are_compared() -> None:
    hourly, daily = both()
    part = hourly.drop(index=[30, *range(72, 96)]).reset_index(drop=True)
    wrong = daily.assign(volume=daily["volume"].where(daily.index != 1, 1.0))
    assert compared(part, wrong.drop(index=[8])) == Agreement(7), "day 1 lacks an hour, day 3 all, day 8 is not stored"
    whole = [Span(DAY, DAY + timedelta(days=10))]
    found = compared(part, wrong.drop(index=[8]), whole)
    assert (found.compared, [(one.field, one.bars) for one in found.differences]) == (8, [("volume", 1)])
    assert compared(empty_candles(), daily) == Agreement(0)
    assert compared(hourly, empty_candles()) == Agreement(0)


def test_a_turnover_that_only_one_has_is_not_compared() -> None:
    hourly, daily = both(value=True)
    assert compared(hourly, daily.drop(columns="value").assign(note="x")) == Agreement(10)


def test_a_difference_says_what_it_is() -> None:
    assert str(Difference("high", 4, 0.0123456, (DAY, DAY + timedelta(hours=1)))) == (
        "high differs in 4 bars by up to 1.23 % (2024-01-01 00:00, 2024-01-01 01:00, ...)"
    )
    assert str(Difference("low", 1, 0.5, (DAY,))) == "low differs in 1 bar by up to 50 % (2024-01-01 00:00)"


@pytest.mark.parametrize(("symbol", "days"), [("KRW-BTC", 2083), ("KRW-ETH", 1350), ("KRW-XRP", 2517)])
def test_real_timeframes_agree(shared_data: Path, symbol: str, days: int) -> None:
    store = CandleStore(shared_data / "candles")
    daily, hourly, minutes = (store.load(symbol, timeframe) for timeframe in ("1D", "1H", "1M"))
    assert compared(hourly, daily) == Agreement(days)
    recorded = compare_timeframes(minutes, Timeframe.M1, hourly, Timeframe.H1, now=LATER)
    assert recorded.differences == ()
    assert recorded.compared > 600
    broken = compared(hourly, daily.assign(high=daily["high"] * 1.001))
    assert [(one.field, one.bars) for one in broken.differences] == [("high", days)]
