"""Coarser candles of a store from its finer ones, put where nobody fetched any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

from coin_hts_pipelines.errors import NoCandles
from coin_hts_pipelines.lake.candle_files import UNKNOWN_SOURCE, is_synthetic
from coin_hts_pipelines.lake.candle_store import CandleStore
from coin_hts_pipelines.lake.inventory import inventory_row
from coin_hts_pipelines.lake.year_files import parse_key
from coin_hts_pipelines.market import Span, Timeframe
from coin_hts_pipelines.market.gaps import on_grid
from coin_hts_pipelines.market.resample import check_coarser, resample


@dataclass(frozen=True)
class Resampled:
    """What was made of one symbol, and what became of it.

    Of `bars` bars `added` are new, `changed` got other values and `kept` were left as somebody fetched them;
    `incomplete` were not made, because finer candles of theirs may never have been fetched. `kept_real` says that
    synthetic ones were not written beside real ones.
    """

    symbol: str
    finer: Timeframe
    coarser: Timeframe
    source: str
    bars: int = 0
    added: int = 0
    changed: int = 0
    kept: int = 0
    incomplete: int = 0
    years: tuple[int, ...] = ()
    kept_real: bool = False


def resample_stored(
    store: CandleStore,
    symbol: str,
    finer: str | Timeframe,
    coarser: str | Timeframe,
    *,
    now: datetime,
    known: Sequence[Span] | None = None,
) -> Resampled:
    """Make coarser candles of all the finer ones a store has of a symbol, and merge them into the store.

    A bar that is stored already stays, unless it was resampled itself or is synthetic and the new one real: a year
    that holds only resampled candles is made anew, one that holds others too gets only what is absent. The source is
    `resampled:1H`; what is made of synthetic candles keeps their source, so that it is never taken for real.

    Parameters
    ----------
    known
        Where a missing finer candle does not exist (see `resample`); None trusts all between the first and the last.

    Raises
    ------
    NoCandles
        There are no finer candles.
    InvalidCandles
        A file it touches is damaged or breaks a rule.
    InvalidRequest
        The coarser timeframe is not a whole number of the finer.
    """
    (symbol, fine), coarse = parse_key(symbol, finer), Timeframe.parse(coarser)
    check_coarser(fine, coarse)
    origin = store.source_of(symbol, fine)
    stored = inventory_row(store.files, symbol, fine)
    if origin is None or stored.first is None or stored.last is None:
        raise NoCandles(f"no {fine} candles of {symbol}; the {coarse} ones are made of them")
    source = origin if is_synthetic(origin) else f"resampled:{fine}"
    extent = [Span(stored.first, stored.last + fine.delta)]
    bars = added = changed = kept = incomplete = 0
    years, kept_real = [], False
    for year in range(coarse.floor(stored.first).year, stored.last.year + 1):
        span = on_grid(Span(datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)), coarse)
        candles = store.load(symbol, fine, span.start, span.end)
        made = resample(candles, fine, coarse, now=now, known=extent if known is None else known)
        incomplete += len(resample(candles, fine, coarse, now=now)) - len(made)
        wanted = _unfetched(store, symbol, coarse, year, made, source)
        merged = store.merge(symbol, coarse, wanted, source=source)
        kept_real |= merged.kept_real
        bars, kept = bars + len(made), kept + len(made) - len(wanted)
        added += sum(write.added for write in merged.writes)
        changed += sum(write.changed for write in merged.writes)
        years += [write.year for write in merged.writes if write.written]
    return Resampled(symbol, fine, coarse, source, bars, added, changed, kept, incomplete, tuple(years), kept_real)


def _unfetched(
    store: CandleStore, symbol: str, timeframe: Timeframe, year: int, made: pd.DataFrame, source: str
) -> pd.DataFrame:
    """Bars that may be written into a year."""
    if year not in store.years(symbol, timeframe):
        return made
    origin = store.files.metadata(symbol, timeframe, year).get("source", UNKNOWN_SOURCE)
    resampled = all(part.startswith("resampled:") for part in origin.split("+"))
    if resampled or (is_synthetic(origin) and not is_synthetic(source)):
        return made
    return made[~made["timestamp"].isin(store.read_year(symbol, timeframe, year)["timestamp"])]
