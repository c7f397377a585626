"""What the checks see in stored candles, with and without a ledger that knows what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.candle_checks import (
    CHECKS,
    MissingBars,
    covered_spans,
    frame_problems,
    freshness_problem,
    missing_bars,
    year_problems,
)
from coin_hts_pipelines.market import Span, Timeframe
from coin_hts_pipelines.market.resample import resample
from coin_hts_pipelines_tests.lake.helpers import candles

UPBIT = "exchange:upbit"
DAY = timedelta(days=1)
LATER = datetime(2030, 6, 1, tzinfo=UTC)

Days = list[tuple[int, int]]


def spans(days: Days, start: str = "2024-01-01") -> list[Span]:
    """Spans of days counted from a date."""
    first = datetime.fromisoformat(start).replace(tzinfo=UTC)
    return [Span(first + one * DAY, first + two * DAY) for one, two in days]


@pytest.fixture
def store(tmp_path: Path) -> CandleStore:
    return CandleStore(tmp_path / "data")


# ---- what the bars of a year show


Change = Callable[[pd.DataFrame], pd.DataFrame]


def put(row: int, column: str, value: Any) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (lambda frame: frame, {}),
        (put(3, "close", float("nan")), {"schema": "close is not a finite number: 1 row"}),
        (put(3, "high", 1.0), {"schema": "high is below open or close: 1 row (2023-01-04T00:00:00Z)"}),
        (put(3, "volume", -1.0), {"schema": "volume is negative"}),
        (put(3, "timestamp", pd.Timestamp("2023-01-04 01:00", tz="UTC")), {"grid": "not on the 1D grid"}),
        (
            put(9, "timestamp", pd.Timestamp("2024-01-01", tz="UTC")),
            {"grid": "not in the year 2023", "gaps": "356 bars"},
        ),
        (lambda frame: frame.drop(index=[4, 7]), {"gaps": "2 bars missing in 2 gaps"}),
    ],
)
def test_a_cooked_frame_is_seen(change: Change, problems: dict[str, str]) -> None:
    found = frame_problems(change(candles(10, start="2023-01-01")), Timeframe.D1, 2023, now=LATER)
    assert set(found) == set(problems)
    assert all(text in found[name] for name, text in problems.items())
    assert set(found) <= set(CHECKS)


# ---- missing bars: day 0 is January 1st, bars are 20 to 79 but for 30 to 32 and 50


@pytest.mark.parametrize(
    ("covered", "expected", "problem"),
    [
        pytest.param(None, (4, 2, 3, None, None), "4 bars missing in 2 gaps, first 2024-01-31", id="no ledger"),
        pytest.param([], (4, 2, 3, 0, 4), "4 bars never fetched, first 2024-01-31", id="an empty ledger"),
        pytest.param([(20, 79)], (4, 2, 3, 4, 0), None, id="all asked for"),
        pytest.param([(20, 40)], (4, 2, 3, 3, 1), "1 bars never fetched, first 2024-02-20T00:00:00Z", id="a part"),
        pytest.param([(20, 31), (40, 79)], (4, 3, 2, 2, 2), "2 bars never fetched, first 2024-02-01", id="half a gap"),
        pytest.param([(-300, 79)], (4, 2, 3, 4, 0), None, id="asked for from before it was listed"),
        pytest.param([(-300, 366)], (4, 2, 3, 4, 0), None, id="asked for until after it was delisted"),
        pytest.param([(-300, -30), (20, 79)], (24, 3, 20, 4, 20), "20 bars never", id="around New Year"),
        pytest.param([(20, 79), (400, 500)], (290, 3, 286, 4, 286), "286 bars never", id="before next New Year"),
        pytest.param([(20, 79), (90, 95)], (14, 3, 10, 4, 10), "10 bars never fetched", id="between two fetches"),
    ],
)
def test_missing_bars(covered: Days | None, expected: Sequence[int | None], problem: str | None) -> None:
    frame = candles(60, start="2024-01-21").drop(index=[10, 11, 12, 30]).reset_index(drop=True)
    known = None if covered is None else spans(covered)
    found = missing_bars(frame, Timeframe.D1, 2024, known)
    assert (found.missing, found.gaps, found.longest, found.holes, found.unfetched) == tuple(expected)
    problems = frame_problems(frame, Timeframe.D1, 2024, known, now=LATER)
    assert list(problems) == (["gaps"] if problem else [])
    assert problems.get("gaps", "").startswith(problem or "")


def test_a_single_bar_misses_nothing() -> None:
    assert missing_bars(candles(1), Timeframe.D1, 2024, []) == MissingBars(0, 0, 0, 0, 0)


# ---- stale series: day 0 is January 1st, the last bar is that of day 9


@pytest.mark.parametrize(
    ("covered", "now", "problem"),
    [
        pytest.param(None, 10.0, None, id="files: the newest closed bar is there"),
        pytest.param(None, 10.9, None, id="files: today is not closed"),
        pytest.param(None, 11.0, "last bar 2024-01-10 00:00, expected 2024-01-11 00:00 UTC (1 bar)", id="files: late"),
        pytest.param([(0, 9)], 10.5, None, id="the newest closed bar is stored and not yet covered"),
        pytest.param([(0, 10)], 11.5, None, id="asked up to the newest closed bar, which has no trades"),
        pytest.param([(0, 9)], 11.5, "expected 2024-01-11 00:00 UTC (1 bar)", id="not asked today"),
        pytest.param([(0, 9)], 13.5, "expected 2024-01-13 00:00 UTC (3 bars)", id="not asked for three days"),
        pytest.param(
            [(0, 11)], 13.5, "expected 2024-01-13 00:00 UTC (1 bar)", id="two days without trades, one not asked"
        ),
        pytest.param([(0, 12)], 13.5, None, id="three days without trades"),
        pytest.param([], 11.5, "(1 bar)", id="an empty ledger"),
    ],
)
def test_freshness(covered: Days | None, now: float, problem: str | None) -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC) + now * DAY
    known = None if covered is None else spans(covered)
    found = freshness_problem(datetime(2024, 1, 10, tzinfo=UTC), Timeframe.D1, known, now=moment)
    assert (found is None) == (problem is None)
    assert (found or "").endswith(problem or "")
    frame = candles(10)
    assert frame_problems(frame, Timeframe.D1, 2024, known, now=moment).get("freshness") == found


@pytest.mark.parametrize(
    ("year", "bars", "now", "stale"),
    [
        pytest.param(2023, 365, "2024-01-01T00:05", False, id="over, and whole"),
        pytest.param(2023, 364, "2024-01-01T00:05", True, id="over, but its last bar is the newest"),
        pytest.param(2023, 364, "2024-01-02T00:05", False, id="over for good: the next year shows it"),
        pytest.param(2024, 1, "2024-01-02T00:05", False, id="new, and whole"),
        pytest.param(2024, 1, "2024-01-03T00:05", True, id="new, and late"),
    ],
)
def test_the_year_of_the_newest_closed_bar_is_judged(year: int, bars: int, now: str, stale: bool) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    found = frame_problems(candles(bars, start=f"{year}-01-01"), Timeframe.D1, year, now=moment)
    assert ("freshness" in found) is stale


# ---- timeframes against each other


HOURS = spans([(0, 30)])


@pytest.mark.parametrize(
    ("covered", "found"),
    [
        pytest.param({}, None, id="no ledger: days with missing hours are not compared"),
        pytest.param({Timeframe.H1: HOURS}, "of 30 bars made of 1H: high in 1 bars, at most 50.00%", id="holes"),
        pytest.param({Timeframe.H1: spans([(11, 30)])}, None, id="not asked for"),
        pytest.param({Timeframe.D1: HOURS}, None, id="what is known of the days does not count"),
    ],
)
def test_days_with_holes_are_compared(
    store: CandleStore, covered: dict[Timeframe, list[Span]], found: str | None
) -> None:
    hours = candles(30 * 24, timeframe="1H").drop(index=[10 * 24 + 5]).reset_index(drop=True)
    days = resample(hours, Timeframe.H1, Timeframe.D1, now=LATER)
    days.loc[10, "high"] *= 2
    store.merge("KRW-BTC", "1H", hours, source=UPBIT)
    store.merge("KRW-BTC", "1D", days, source=UPBIT)
    frame = store.read_year("KRW-BTC", "1D", 2024)
    problems = year_problems(store, "KRW-BTC", Timeframe.D1, 2024, frame, covered, now=LATER)
    assert problems.get("agreement") == found


@pytest.mark.parametrize("cooked", [False, True])
def test_the_week_of_new_year_is_compared_whole(store: CandleStore, cooked: bool) -> None:
    days = candles(28, start="2024-12-16")
    weeks = resample(days, Timeframe.D1, Timeframe.W1, now=LATER)
    if cooked:
        weeks.loc[2, "volume"] *= 2  # December 30th to January 5th
    store.merge("KRW-BTC", "1D", days, source=UPBIT)
    store.merge("KRW-BTC", "1W", weeks, source=UPBIT)
    covered = {Timeframe.D1: spans([(0, 28)], "2024-12-16")}
    frame = store.read_year("KRW-BTC", "1W", 2024)
    assert len(frame) == 3
    problems = year_problems(store, "KRW-BTC", Timeframe.W1, 2024, frame, covered, now=LATER)
    assert problems == ({"agreement": "of 3 bars made of 1D: volume in 1 bars, at most 50.00%"} if cooked else {})


def test_damaged_finer_candles_break_no_others(store: CandleStore) -> None:
    store.merge("KRW-BTC", "1H", candles(240, timeframe="1H"), source="files")
    store.merge("KRW-BTC", "1D", candles(10), source="files")
    Path(store.files.path("KRW-BTC", Timeframe.H1, 2024)).write_bytes(b"PAR1")
    frame = store.read_year("KRW-BTC", "1D", 2024)
    problems = year_problems(store, "KRW-BTC", Timeframe.D1, 2024, frame, now=LATER)
    assert list(problems) == ["agreement"]
    assert problems["agreement"].startswith("the 1H candles cannot be read: ")


# ---- what the ledger is asked


class Asked:
    """A ledger that remembers what it was asked."""

    def __init__(self) -> None:
        self.opened = 0
        self.questions: list[tuple[str, str, str]] = []

    def open(self) -> Asked:
        self.opened += 1
        return self

    def intervals(self, source: str, symbol: str, timeframe: Timeframe) -> list[Span]:
        self.questions.append((source, symbol, timeframe.value))
        return spans([(len(self.questions), 10)])


@pytest.mark.parametrize("source", ["files", "sample", "resampled:1H", "files+resampled:1H"])
def test_a_series_of_no_exchange_opens_no_ledger(store: CandleStore, source: str) -> None:
    store.merge("KRW-BTC", "1D", candles(5), source=source)
    asked = Asked()
    assert covered_spans(store, "KRW-BTC", [Timeframe.D1], asked.open) == {}
    assert asked.opened == 0


def test_the_ledger_is_asked_once_for_each_series_of_an_exchange(store: CandleStore) -> None:
    for year in (2022, 2023, 2024):
        store.merge("KRW-BTC", "1D", candles(5, start=f"{year}-01-01"), source=UPBIT)
    store.merge("KRW-BTC", "1D", candles(5, start="2021-01-01"), source="exchange:bithumb")
    store.merge("KRW-BTC", "1H", candles(5, timeframe="1H"), source="files")
    store.merge("KRW-BTC", "1M", candles(5, timeframe="1M"), source=UPBIT)
    asked = Asked()
    found = covered_spans(store, "KRW-BTC", [Timeframe.H1, Timeframe.D1], asked.open)
    assert found == {Timeframe.D1: spans([(1, 10), (2, 10)])}
    assert asked.questions == [("exchange:bithumb", "KRW-BTC", "1D"), (UPBIT, "KRW-BTC", "1D")]
