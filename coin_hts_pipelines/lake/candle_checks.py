"""What is wrong with stored candles, in words, a text a check; nothing is mended here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import pandas as pd

from coin_hts_pipelines.errors import InvalidCandles
from coin_hts_pipelines.lake.candle_store import CandleStore
from coin_hts_pipelines.market import Span, Timeframe, count_gaps
from coin_hts_pipelines.market.candles import candle_arrays, find_violations
from coin_hts_pipelines.market.gaps import gaps as find_gaps
from coin_hts_pipelines.market.gaps import on_grid, open_times
from coin_hts_pipelines.market.quality import compare_timeframes, find_outliers, find_stale

CHECKS = ("schema", "grid", "gaps", "freshness", "outliers", "agreement")
_SHOWN = 3

# What a ledger knows of the series of a symbol; one that it does not know (of files, of samples) is absent.
Covered = Mapping[Timeframe, Sequence[Span]]


class Ledger(Protocol):
    """What exchanges were asked for (`catalog.Coverage`)."""

    def intervals(self, source: str, symbol: str, timeframe: Timeframe) -> list[Span]:
        """What is complete, in order."""


@dataclass(frozen=True)
class MissingBars:
    """Bars a year lacks: how many, in how many gaps, and the longest.

    An exchange does not have `holes` of them, `unfetched` were never asked for; both are None of a series that no
    ledger knows. `first` is when the first gaps begin, of those that are a problem.
    """

    missing: int
    gaps: int
    longest: int
    holes: int | None = None
    unfetched: int | None = None
    first: tuple[str, ...] = ()


def covered_spans(
    store: CandleStore, symbol: str, timeframes: Iterable[Timeframe], ledger: Callable[[], Ledger]
) -> dict[Timeframe, list[Span]]:
    """Look up what a ledger knows, a question for each series; it is opened only if a series came from an exchange."""
    found: dict[Timeframe, list[Span]] = {}
    for timeframe in timeframes:
        sources = (store.source_of(symbol, timeframe) or "").split("+")
        if exchanges := [source for source in sources if source.startswith("exchange:")]:
            found[timeframe] = [span for one in exchanges for span in ledger().intervals(one, symbol, timeframe)]
    return found


def year_problems(
    store: CandleStore,
    symbol: str,
    timeframe: Timeframe,
    year: int,
    frame: pd.DataFrame,
    covered: Covered | None = None,
    *,
    now: datetime,
) -> dict[str, str]:
    """Problems of one year by check.

    Parameters
    ----------
    frame
        What `store.read_year` gives.
    covered
        Of this series and of the finer ones it is compared with.
    now
        When the candles were asked for: bars that closed later cannot be there.
    """
    covered = covered or {}
    found = {
        **frame_problems(frame, timeframe, year, covered.get(timeframe), now=now),
        "outliers": _outlier_problem(frame),
        "agreement": _agreement_problem(store, symbol, timeframe, year, frame, covered, now),
    }
    return {check: text for check, text in found.items() if text}


def frame_problems(
    frame: pd.DataFrame, timeframe: Timeframe, year: int, covered: Sequence[Span] | None = None, *, now: datetime
) -> dict[str, str]:
    """Problems of a year that its own bars show, the present, and what the ledger knows of the series."""
    problems: dict[str, str] = {}
    for violation in find_violations(candle_arrays(frame), timeframe, year=year):
        check = "grid" if violation.rule.startswith("timestamp") else "schema"
        problems[check] = f"{problems[check]}; {violation}" if check in problems else str(violation)
    found = missing_bars(frame, timeframe, year, covered)
    if found.unfetched is None and found.missing:
        problems["gaps"] = f"{found.missing} bars missing in {found.gaps} gaps, first {', '.join(found.first)}"
    elif found.unfetched:
        problems["gaps"] = f"{found.unfetched} bars never fetched, first {', '.join(found.first)}"
    # A year that is over is judged as long as its last bar is the newest closed one.
    if year == (timeframe.floor(now) - timeframe.delta).year:
        stale = freshness_problem(frame["timestamp"].iloc[-1].to_pydatetime(), timeframe, covered, now=now)
        problems |= {"freshness": stale} if stale else {}
    return problems


def missing_bars(
    frame: pd.DataFrame, timeframe: Timeframe, year: int, covered: Sequence[Span] | None = None
) -> MissingBars:
    """Count the bars a year lacks between its first and its last.

    With a ledger those that were never fetched count also before and after these, wherever the ledger knows of earlier
    or later ones: the days around New Year lie between two files.
    """
    if covered is None:
        report = count_gaps(frame, timeframe)
        return MissingBars(report.missing, report.gaps, report.longest, first=report.first)
    first, last = (frame["timestamp"].iloc[place].to_pydatetime() for place in (0, -1))
    begin = min([first, *(one.start for one in covered if one.start)])
    end = max([last, *(one.end for one in covered if one.end)])
    span = Span(max(begin, _new_year(year)), min(end, _new_year(year + 1)))
    found = find_gaps(open_times(frame), timeframe, covered, span)
    # An exchange that was asked for years before a market was listed has no hole there.
    holes = [gap for gap in found if gap.kind == "hole" and first < gap.start < last]
    unfetched = [gap for gap in found if gap.kind == "unfetched"]
    sizes = [gap.bars for gap in (*holes, *unfetched)]
    return MissingBars(
        missing=sum(sizes),
        gaps=len(sizes),
        longest=max(sizes, default=0),
        holes=sum(gap.bars for gap in holes),
        unfetched=sum(gap.bars for gap in unfetched),
        first=tuple(f"{gap.start:%Y-%m-%dT%H:%M:%SZ}" for gap in unfetched[:_SHOWN]),
    )


def freshness_problem(
    last: datetime, timeframe: Timeframe, covered: Sequence[Span] | None = None, *, now: datetime
) -> str | None:
    """Say so if a series ends at the open time `last` although later bars are closed and were not asked for."""
    # The newest closed bar is asked for and not covered, because it may still change (`lake.sources.exchange.Page`).
    asked = [Span(one.start, one.end and one.end + timeframe.delta) for one in covered or ()]
    stale = find_stale(last, timeframe, now, asked)
    return None if stale is None else str(stale)


def _outlier_problem(frame: pd.DataFrame) -> str | None:
    found = find_outliers(frame)
    if not found:
        return None
    worst = max(found, key=lambda one: one.times)
    return f"{len(found)} bars, the worst {worst.opened:%Y-%m-%d %H:%M} with {worst.times:,.0f} times the median range"


def _agreement_problem(
    store: CandleStore,
    symbol: str,
    timeframe: Timeframe,
    year: int,
    frame: pd.DataFrame,
    covered: Covered,
    now: datetime,
) -> str | None:
    """Compare a year with the coarsest of the finer timeframes that is stored, unless it was made of others itself."""
    finer = [
        one for one in store.timeframes(symbol) if one.delta < timeframe.delta and year in store.years(symbol, one)
    ]
    if not finer or "resampled:" in (store.source_of(symbol, timeframe) or ""):
        return None
    below = finer[-1]
    if timeframe.microseconds % below.microseconds:
        return None
    # The week of New Year ends in the next year.
    span = on_grid(Span(_new_year(year), _new_year(year + 1)), timeframe)
    try:
        candles = store.load(symbol, below, span.start, span.end)
    except InvalidCandles as error:
        return f"the {below} candles cannot be read: {error}"
    agreement = compare_timeframes(candles, below, frame, timeframe, now=now, known=covered.get(below, ()))
    if not agreement.differences:
        return None
    text = "; ".join(f"{one.field} in {one.bars:,} bars, at most {one.largest:.2%}" for one in agreement.differences)
    return f"of {agreement.compared:,} bars made of {below}: {text}"


def _new_year(year: int) -> datetime:
    return datetime(year, 1, 1, tzinfo=UTC)
