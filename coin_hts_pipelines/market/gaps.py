"""Which bars of the grid are missing: those that an exchange does not have, and those that nobody has asked for.

A span or an interval holds a bar when the bar's *open time* lies in it; an interval that is not on the grid means the
same bars as the one `on_grid` makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from coin_hts_pipelines.errors import InvalidCandles
from coin_hts_pipelines.market.dates import Span
from coin_hts_pipelines.market.timeframe import Timeframe

Ints = npt.NDArray[np.int64]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVER = 2**62


@dataclass(frozen=True)
class Gap:
    """Missing bars that follow each other: `bars` from the open time `start` to before `end`.

    A `hole` was asked for, and the exchange has no candles there; `unfetched` was never asked for.
    """

    kind: Literal["hole", "unfetched"]
    start: datetime
    end: datetime
    bars: int


def on_grid(span: Span, timeframe: Timeframe) -> Span:
    """Span of the same bars that begins and ends on the grid; one without a bar has its start at its end or later."""

    def up(moment: datetime | None) -> datetime | None:
        if moment is None:
            return None
        opened = timeframe.floor(moment)
        return opened if opened == moment else opened + timeframe.delta

    return Span(up(span.start), up(span.end))


def bar_ranges(spans: Sequence[Span], timeframe: Timeframe) -> tuple[Ints, Ints]:
    """Bars of spans as positions on the grid `[first, last)`, int64, ascending and apart whatever the spans are."""
    aligned = [on_grid(span, timeframe) for span in spans]
    starts = np.array([_position(span.start, timeframe, -_EVER) for span in aligned], dtype=np.int64)
    ends = np.array([_position(span.end, timeframe, _EVER) for span in aligned], dtype=np.int64)
    filled = starts < ends
    order = np.argsort(starts[filled])
    starts, ends = starts[filled][order], np.maximum.accumulate(ends[filled][order])
    new = np.ones(len(starts), dtype=bool)
    new[1:] = starts[1:] > ends[:-1]
    last = np.roll(new, -1)
    return starts[new], ends[last]


def lies_within(places: Ints, bars: int, ranges: tuple[Ints, Ints]) -> npt.NDArray[np.bool_]:
    """Which stretches of `bars` bars from each position lie whole in one of the ranges that `bar_ranges` gives."""
    starts, ends = ranges
    # Ranges are apart: the last that begins early enough and the first that ends late enough are one or none.
    found: npt.NDArray[np.bool_] = np.searchsorted(starts, places, "right") - 1 == np.searchsorted(ends, places + bars)
    return found


def gaps(stamps: Ints, timeframe: Timeframe, covered: Sequence[Span], span: Span) -> list[Gap]:
    """Missing bars of a span in the order of time, told apart by what was asked for.

    Parameters
    ----------
    stamps
        Open times of n bars, int64 microseconds since the epoch, ascending (`CandleArrays.timestamp`).
    covered
        What was asked for and is complete.
    span
        What is looked at. An open side ends at the outermost bar or closed end of `covered`.

    Raises
    ------
    InvalidCandles
        If an open time is not on the grid, or not later than the one before.
    """
    since = stamps - timeframe.grid_offset_us
    places = since // timeframe.microseconds
    if (places * timeframe.microseconds != since).any() or (np.diff(places) <= 0).any():
        raise InvalidCandles(f"open times are not ascending on the {timeframe} grid; validate the candles first")
    asked = bar_ranges(covered, timeframe)
    known = np.concatenate([places[:1], places[-1:], *asked])
    known = known[np.abs(known) < _EVER]
    low, high = (int(known.min()), int(known.max())) if len(known) else (0, 0)
    aligned = on_grid(span, timeframe)
    first, last = _position(aligned.start, timeframe, low), _position(aligned.end, timeframe, high)
    if first >= last:
        return []

    inside = places[np.searchsorted(places, first) : np.searchsorted(places, last)]
    fences = np.concatenate([[first - 1], inside, [last]])
    wide = np.flatnonzero(np.diff(fences) > 1)
    empty = fences[wide] + 1, fences[wide + 1]
    # Between two neighbouring edges all bars are alike.
    edges = np.unique(np.concatenate([*empty, *asked]))
    begin, end = edges[:-1], edges[1:]
    missing = lies_within(begin, 1, empty)
    begin, end = begin[missing], end[missing]
    holes = lies_within(begin, 1, asked)
    return [
        Gap("hole" if is_hole else "unfetched", _moment(one, timeframe), _moment(two, timeframe), two - one)
        for one, two, is_hole in zip(begin.tolist(), end.tolist(), holes.tolist(), strict=True)
    ]


def open_times(candles: pd.DataFrame) -> Ints:
    """Open times of a canonical frame as `gaps` takes them."""
    return candles["timestamp"].to_numpy(dtype="datetime64[us]").view(np.int64)


def _position(moment: datetime | None, timeframe: Timeframe, otherwise: int) -> int:
    if moment is None:
        return otherwise
    return ((moment - _EPOCH) // timedelta(microseconds=1) - timeframe.grid_offset_us) // timeframe.microseconds


def _moment(place: int, timeframe: Timeframe) -> datetime:
    return _EPOCH + timedelta(microseconds=place * timeframe.microseconds + timeframe.grid_offset_us)
