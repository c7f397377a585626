"""Which candles of a live source are due, by the coverage ledger, and the runs that fetch them.

What is new since the last tick goes first and alone: a long history must not hold it up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from coin_hts_pipelines.catalog import Coverage, SymbolCatalog
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.control.ranges import cut_into_boxes
from coin_hts_pipelines.defs.jobs import refresh_job
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START, join_key
from coin_hts_pipelines.lake.sources.pages import PAGE_BARS
from coin_hts_pipelines.market import Span, Timeframe
from coin_hts_pipelines.settings import get_settings

# dagster.yaml lets one run with this tag run at a time.
HISTORY = {"coin_hts/history": "true", "dagster/priority": "-10"}

# Ten pages: what a symbol misses after a week without a tick of hours, or a year of days.
_FEW_BARS = 10 * PAGE_BARS
# Twenty minutes of an exchange that answers ten requests a second; what is left the next tick asks for.
_MOST_BARS = 12_000 * PAGE_BARS


def missing_bars(coverage: Coverage, source: str, symbol: str, timeframe: Timeframe, span: Span) -> dict[int, int]:
    """How many bars of a span were never asked for, by UTC year."""
    bars: dict[int, int] = {}
    for part in coverage.missing(source, symbol, timeframe, span):
        start, end = part.start or span.start, part.end or span.end
        while start is not None and end is not None and start < end:
            year_end = min(end, datetime(start.year + 1, 1, 1, tzinfo=UTC))
            bars[start.year] = bars.get(start.year, 0) + max(1, (year_end - start) // timeframe.delta)
            start = year_end
    return bars


def due_runs(
    instance: dg.DagsterInstance,
    timeframe: Timeframe,
    at: datetime,
    symbols: Sequence[str],
    only: Collection[str] | None = None,
) -> list[dg.RunRequest]:
    """Runs over the symbols that are listed and switched on, and the years, that miss bars closed at a moment.

    Series that miss little share one run as long as they are a rectangle; of those that miss much the newest years
    come first, as many as an exchange gives in twenty minutes. Nothing is asked for while a run of the same kind and
    timeframe is under way: the next tick sees what it has left.

    Parameters
    ----------
    at
        Aware.
    symbols
        All partitions, in stored order.
    only
        Look at these of them.
    """
    settings, database = get_settings(), open_database()
    coverage = Coverage(database)
    # Whoever imports files of another market makes partitions too; the exchange would not know them.
    fetched = {one.symbol for one in SymbolCatalog(database).list(exchange=settings.exchange) if one.is_fetched}
    span = Span(datetime(settings.first_year, 1, 1, tzinfo=UTC), timeframe.floor(at))
    due = {
        (symbol, year): bars
        for symbol in symbols
        if symbol in fetched and (only is None or symbol in only)
        for year, bars in missing_bars(coverage, settings.source, symbol, timeframe, span).items()
    }
    job = refresh_job(timeframe).name
    running = instance.get_runs(dg.RunsFilter(job_name=job, statuses=NOT_FINISHED_STATUSES))
    busy = {is_history(run.tags) for run in running}
    few = [pair for pair, bars in due.items() if bars <= _FEW_BARS]
    many = _newest(due, [pair for pair, bars in due.items() if bars > _FEW_BARS])
    years = [str(year) for year in range(settings.first_year, at.year + 1)]
    return [
        dg.RunRequest(
            run_key=f"{timeframe} {at.isoformat()} {join_key(*box.first)}",
            job_name=job,
            tags={RANGE_START: join_key(*box.first), RANGE_END: join_key(*box.last), **(HISTORY if history else {})},
        )
        for history, pairs in ((False, few), (True, many))
        if history not in busy
        for box in cut_into_boxes([(symbol, str(year)) for symbol, year in pairs], symbols, years)
    ]


def is_history(tags: Mapping[str, str]) -> bool:
    """Whether a run fetches the history of symbols, not what is new."""
    return HISTORY.items() <= tags.items()


def _newest(due: dict[tuple[str, int], int], pairs: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Pairs with the newest years until there are enough bars, at least one."""
    chosen: list[tuple[str, int]] = []
    bars = 0
    for pair in sorted(pairs, key=lambda one: -one[1]):
        if chosen and bars + due[pair] > _MOST_BARS:
            break
        chosen.append(pair)
        bars += due[pair]
    return chosen
