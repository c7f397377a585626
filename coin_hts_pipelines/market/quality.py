"""Whether candles can be trusted: bars that are too wide, series that end too early, timeframes that disagree.

Nothing here changes a candle; each check returns what it found as records whose text is fit for a person. Not here:
what makes a frame valid at all (`market.candles`) and which bars are missing (`market.gaps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from coin_hts_pipelines.market.dates import Span
from coin_hts_pipelines.market.gaps import gaps, open_times
from coin_hts_pipelines.market.resample import resample
from coin_hts_pipelines.market.timeframe import Timeframe

# Sums of the same numbers in another order differ by a few units in the last place; nothing real is this small.
TOLERANCE = 1e-9
_SHOWN = 3
_FEWEST = 20


@dataclass(frozen=True)
class Outlier:
    """A bar whose range (high - low) is `times` the median range of the bars before it."""

    opened: datetime
    range: float
    times: float

    def __str__(self) -> str:
        """Render as `2025-01-01 00:00: range 1,200, 31 times the median before it`."""
        return f"{self.opened:%Y-%m-%d %H:%M}: range {self.range:,.10g}, {self.times:,.0f} times the median before it"


@dataclass(frozen=True)
class Stale:
    """A series that ends at the open time `last` although bars up to `expected` are closed; `bars` of them miss."""

    last: datetime
    expected: datetime
    bars: int

    def __str__(self) -> str:
        """Render as `last bar 2025-01-01 00:00, expected 2025-01-03 00:00 UTC (2 bars)`."""
        bars = f"{self.bars:,} {'bar' if self.bars == 1 else 'bars'}"
        return f"last bar {self.last:%Y-%m-%d %H:%M}, expected {self.expected:%Y-%m-%d %H:%M} UTC ({bars})"


@dataclass(frozen=True)
class Difference:
    """A field in which two timeframes disagree: in how many bars, how much at most (relative), and the first ones."""

    field: str
    bars: int
    largest: float
    first: tuple[datetime, ...]

    def __str__(self) -> str:
        """Render as `high differs in 2 bars by up to 0.01 % (2025-01-01 00:00, ...)`."""
        shown = ", ".join(f"{opened:%Y-%m-%d %H:%M}" for opened in self.first)
        more = ", ..." if self.bars > len(self.first) else ""
        bars = f"{self.bars:,} {'bar' if self.bars == 1 else 'bars'}"
        return f"{self.field} differs in {bars} by up to {self.largest * 100:.3g} % ({shown}{more})"


@dataclass(frozen=True)
class Agreement:
    """Two timeframes against each other: how many bars were compared, and the fields that differ."""

    compared: int
    differences: tuple[Difference, ...] = ()


def find_outliers(candles: pd.DataFrame, *, window: int = 100, times: float = 20.0) -> list[Outlier]:
    """Bars whose range is more than `times` the median range of the `window` bars before them.

    Bars without a range are left out of the median: in a quiet market they would make it zero. A bar with fewer than
    20 others before it (or the window, if that is less) is not judged.

    Parameters
    ----------
    candles
        Canonical frame of n bars.
    """
    ranges = (candles["high"] - candles["low"]).reset_index(drop=True)
    moved = ranges.where(ranges > 0).shift()
    median = moved.rolling(window, min_periods=min(window, _FEWEST)).median()
    found = np.flatnonzero(ranges > times * median)
    return [
        Outlier(candles["timestamp"].iloc[i].to_pydatetime(), float(ranges[i]), float(ranges[i] / median[i]))
        for i in found
    ]


def find_stale(last: datetime, timeframe: Timeframe, now: datetime, covered: Sequence[Span] = ()) -> Stale | None:
    """Return the finding when closed bars are missing after the last one and were never asked for, otherwise None.

    Parameters
    ----------
    last
        Open time of the last bar there is.
    covered
        What was asked for and is complete: a bar that misses there was not traded, and makes nothing stale.
    """
    closed_since = Span(last + timeframe.delta, timeframe.floor(now))
    nothing = np.empty(0, dtype=np.int64)
    bars = sum(gap.bars for gap in gaps(nothing, timeframe, covered, closed_since) if gap.kind == "unfetched")
    return Stale(last, timeframe.floor(now) - timeframe.delta, bars) if bars else None


def compare_timeframes(
    finer: pd.DataFrame,
    finer_timeframe: Timeframe,
    coarser: pd.DataFrame,
    coarser_timeframe: Timeframe,
    *,
    now: datetime,
    known: Sequence[Span] = (),
) -> Agreement:
    """Resample the finer candles and compare them with the coarser ones, bar by bar where both have one.

    Compared are bins that have all their finer bars or lie whole in `known` (see `resample`). Relative differences
    above 1e-9 count.

    Raises
    ------
    InvalidRequest
        If the coarser timeframe is not a whole number of the finer.
    """
    made = resample(finer, finer_timeframe, coarser_timeframe, now=now, known=known)
    _, left, right = np.intersect1d(open_times(made), open_times(coarser), assume_unique=True, return_indices=True)
    made, stored = made.iloc[left], coarser.iloc[right]
    differences = []
    for name in (column for column in made.columns if column != "timestamp" and column in stored.columns):
        one, two = made[name].to_numpy(), stored[name].to_numpy()
        size = np.maximum(np.abs(one), np.abs(two))
        apart = np.divide(np.abs(one - two), size, out=np.zeros_like(size), where=size > 0)
        rows = np.flatnonzero(apart > TOLERANCE)
        if len(rows):
            first = tuple(stamp.to_pydatetime() for stamp in made["timestamp"].iloc[rows[:_SHOWN]])
            differences.append(Difference(name, len(rows), float(apart.max()), first))
    return Agreement(len(made), tuple(differences))
