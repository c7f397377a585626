"""Coarser candles from finer ones, as an exchange makes them: first, highest, lowest, last, sum."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.market.candles import drop_unfinished, timestamp_index
from coin_hts_pipelines.market.dates import Span
from coin_hts_pipelines.market.gaps import bar_ranges, lies_within, open_times
from coin_hts_pipelines.market.timeframe import Timeframe


def check_coarser(finer: Timeframe, coarser: Timeframe) -> int:
    """Return how many bars of the finer timeframe make one of the coarser.

    Raises
    ------
    InvalidRequest
        If they do not make a whole number of two or more.
    """
    ratio, rest = divmod(coarser.microseconds, finer.microseconds)
    if rest or ratio < 2:
        fitting = [str(t) for t in Timeframe if t.delta > finer.delta and t.microseconds % finer.microseconds == 0]
        raise InvalidRequest(
            f"{coarser} candles cannot be made of {finer} ones; accepted: {', '.join(fitting) or 'none'}"
        )
    return ratio


def resample(
    candles: pd.DataFrame,
    finer: Timeframe,
    coarser: Timeframe,
    *,
    now: datetime,
    known: Sequence[Span] | None = None,
) -> pd.DataFrame:
    """Make coarser candles; a bin without bars stays absent, and so does the last one until it is closed at `now`.

    Parameters
    ----------
    candles
        Canonical frame of n bars of the timeframe `finer`.
    known
        Where a finer bar that is missing does not exist, instead of not having been fetched. Then only bins are made
        that have all their bars or lie in here whole; None makes every bin.

    Returns
    -------
    pandas.DataFrame
        Canonical frame, with `value` if the candles have it.

    Raises
    ------
    InvalidRequest
        If the coarser timeframe is not a whole number of the finer.
    """
    ratio = check_coarser(finer, coarser)
    bins = (open_times(candles) - coarser.grid_offset_us) // coarser.microseconds
    first = np.flatnonzero(np.diff(bins, prepend=bins[:1] - 1))
    count = np.diff(first, append=len(bins))
    opened = bins[first] * coarser.microseconds + coarser.grid_offset_us
    values = {name: candles[name].to_numpy() for name in candles.columns if name != "timestamp"}
    frame = pd.DataFrame(
        {
            "timestamp": timestamp_index(opened),
            "open": values["open"][first],
            "high": np.maximum.reduceat(values["high"], first),
            "low": np.minimum.reduceat(values["low"], first),
            "close": values["close"][first + count - 1],
        }
    )
    for name in ("volume", "value"):
        if name in values:
            frame[name] = np.add.reduceat(values[name], first)
    if known is not None:
        place = (opened - finer.grid_offset_us) // finer.microseconds
        frame = frame[(count == ratio) | lies_within(place, ratio, bar_ranges(known, finer))]
    return drop_unfinished(frame, coarser, now)
