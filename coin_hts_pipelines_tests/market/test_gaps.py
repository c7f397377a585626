"""Missing bars against a naive walk over the grid."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidCandles
from coin_hts_pipelines.market import Span, Timeframe
from coin_hts_pipelines.market.gaps import Gap, bar_ranges, gaps, lies_within, on_grid

# A Monday: bar 0 of every timeframe.
ORIGIN = datetime(2024, 1, 1, tzinfo=UTC)
timeframes = st.sampled_from([Timeframe.M1, Timeframe.H4, Timeframe.D1, Timeframe.W1])


def at(bar: float, timeframe: Timeframe = Timeframe.H1) -> datetime:
    return ORIGIN + bar * timeframe.delta


def stamps(bars: list[int], timeframe: Timeframe = Timeframe.H1) -> np.ndarray:
    start = int(ORIGIN.timestamp()) * 1_000_000
    return np.array([start + bar * timeframe.microseconds for bar in bars], dtype=np.int64)


def spans(*pairs: tuple[float | None, float | None], timeframe: Timeframe = Timeframe.H1) -> list[Span]:
    return [Span(*(None if end is None else at(end, timeframe) for end in pair)) for pair in pairs]


def shown(found: list[Gap], timeframe: Timeframe = Timeframe.H1) -> list[tuple[str, int, int]]:
    for gap in found:
        assert (gap.end - gap.start) == gap.bars * timeframe.delta
    return [(gap.kind, int((gap.start - ORIGIN) / timeframe.delta), gap.bars) for gap in found]


@pytest.mark.parametrize(
    ("bars", "covered", "span", "expected"),
    [
        pytest.param([0, 1, 2], [(0, 3)], (0, 3), [], id="nothing misses"),
        pytest.param([0, 3], [(0, 4)], (0, 4), [("hole", 1, 2)], id="asked for and not there"),
        pytest.param([0, 3], [], (0, 4), [("unfetched", 1, 2)], id="never asked for"),
        pytest.param([0, 5], [(0, 3)], (0, 6), [("hole", 1, 2), ("unfetched", 3, 2)], id="half asked for"),
        pytest.param([], [(1, 3)], (0, 4), [("unfetched", 0, 1), ("hole", 1, 2), ("unfetched", 3, 1)], id="no bar"),
        pytest.param([], [], (0, 4), [("unfetched", 0, 4)], id="nothing at all"),
        pytest.param([], [], (None, None), [], id="nothing at all and no span"),
        pytest.param([2, 5], [], (None, None), [("unfetched", 3, 2)], id="without a span from bar to bar"),
        pytest.param([2], [(0, 4)], (None, None), [("hole", 0, 2), ("hole", 3, 1)], id="or to what was asked for"),
        pytest.param([2], [(None, 4)], (None, None), [("hole", 3, 1)], id="asked for since ever"),
        pytest.param([2], [(None, 4)], (0, 5), [("hole", 0, 2), ("hole", 3, 1), ("unfetched", 4, 1)], id="and a span"),
        pytest.param([0, 9], [(0, 10)], (3.5, 5.5), [("hole", 4, 2)], id="a span between bars is cut to the bars"),
        pytest.param([0, 9], [(3.5, 5.5)], (3, 6), [("unfetched", 3, 1), ("hole", 4, 2)], id="so is an interval"),
        pytest.param([0, 9], [(5, 7), (2, 5), (3, 4)], (2, 7), [("hole", 2, 5)], id="intervals in any order"),
        pytest.param([0, 1], [], (3.2, 3.8), [], id="a span without a bar"),
        pytest.param([0, 1], [], (5, 2), [], id="a span turned round"),
    ],
)  # fmt: skip
def test_gaps(
    bars: list[int],
    covered: list[tuple[float | None, float | None]],
    span: tuple[float | None, float | None],
    expected: list[tuple[str, int, int]],
) -> None:
    assert shown(gaps(stamps(bars), Timeframe.H1, spans(*covered), *spans(span))) == expected


quarters = st.integers(-40, 160).map(lambda number: number / 4)
intervals = st.lists(st.tuples(quarters, quarters), max_size=6)


@given(timeframes, st.sets(st.integers(-8, 38)), intervals, st.tuples(quarters, quarters))
def test_every_missing_bar_is_in_one_gap_of_its_kind(
    timeframe: Timeframe, bars: set[int], covered: list[tuple[float, float]], span: tuple[float, float]
) -> None:
    asked, looked_at = spans(*covered, timeframe=timeframe), spans(span, timeframe=timeframe)[0]
    found = gaps(stamps(sorted(bars), timeframe), timeframe, asked, looked_at)
    missing = [bar for bar in range(-12, 45) if span[0] <= bar < span[1] and bar not in bars]
    naive = {bar: "hole" if any(one <= bar < two for one, two in covered) else "unfetched" for bar in missing}
    listed = shown(found, timeframe)
    assert [(first + i, kind) for kind, first, count in listed for i in range(count)] == sorted(naive.items())
    for (kind, first, count), (next_kind, next_first, _) in itertools.pairwise(listed):
        assert (kind, first + count) != (next_kind, next_first), "neighbours of one kind are one gap"


@given(timeframes, intervals, st.integers(-12, 45), st.integers(1, 7))
def test_a_stretch_lies_within_when_each_bar_does(
    timeframe: Timeframe, covered: list[tuple[float, float]], first: int, count: int
) -> None:
    ranges = bar_ranges(spans(*covered, timeframe=timeframe), timeframe)
    starts, ends = ranges
    assert (starts < ends).all()
    assert (starts[1:] > ends[:-1]).all()
    zero = (stamps([0], timeframe) - timeframe.grid_offset_us) // timeframe.microseconds
    naive = all(any(one <= bar < two for one, two in covered) for bar in range(first, first + count))
    assert lies_within(zero + first, count, ranges).tolist() == [naive]


@given(timeframes, quarters, st.integers(-3_000_000, 3_000_000), quarters)
def test_a_span_on_the_grid_holds_the_same_bars(timeframe: Timeframe, start: float, off_us: int, end: float) -> None:
    given_span = Span(at(start, timeframe) + timedelta(microseconds=off_us), at(end, timeframe))
    span = on_grid(given_span, timeframe)
    assert span.start is not None
    assert span.end is not None
    assert (timeframe.floor(span.start), timeframe.floor(span.end)) == (span.start, span.end)
    opened = [at(bar, timeframe) for bar in range(-12, 45)]
    assert [t for t in opened if span.start <= t < span.end] == [
        t for t in opened if given_span.start <= t < given_span.end
    ]
    assert on_grid(Span(), timeframe) == Span()


@pytest.mark.parametrize(
    "micros", [stamps([1, 0]), stamps([1, 1]), stamps([0, 1]) + 1], ids=["unsorted", "twice", "off the grid"]
)
def test_open_times_that_are_no_series_are_refused(micros: np.ndarray) -> None:
    with pytest.raises(InvalidCandles, match="not ascending on the 1H grid"):
        gaps(micros, Timeframe.H1, [], Span())
