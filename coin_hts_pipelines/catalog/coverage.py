"""The coverage ledger: which bars of a symbol and timeframe a source was asked for, and gave all it has of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSTZMULTIRANGE, insert

from coin_hts_pipelines.catalog.database import Database
from coin_hts_pipelines.catalog.models import CoverageRow
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.market import Span, Timeframe, normalize_symbol
from coin_hts_pipelines.market.gaps import on_grid


class Coverage:
    """Intervals in Postgres, kept as whole bars: `[start, end)` of open times on the grid, merged and in order.

    Each change is one statement that locks its row, so processes that change the same series at once lose nothing.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def series(self) -> list[tuple[str, str, Timeframe]]:
        """Source, symbol and timeframe of everything that was asked for, sorted."""
        columns = (CoverageRow.source, CoverageRow.symbol, CoverageRow.timeframe)
        query = sa.select(*columns).where(~sa.func.isempty(CoverageRow.covered))
        with self.database.session() as session:
            found = [(source, symbol, Timeframe(text)) for source, symbol, text in session.execute(query)]
        return sorted(found, key=lambda one: (one[0], one[1], one[2].delta))

    def add(self, source: str, symbol: str, timeframe: str | Timeframe, start: datetime, end: datetime) -> None:
        """Enter that every bar that opens in `[start, end)` was asked for and what exists is stored.

        The caller vouches that all of them are closed: what is entered is not asked for again.

        Raises
        ------
        InvalidRequest
            If the source is empty, or the start is after the end.
        """
        if not source:
            raise InvalidRequest("source is empty; name where the candles come from, such as 'exchange:upbit'")
        if start > end:
            raise InvalidRequest(f"start {start} is after end {end}; the start must not be later than the end")
        key = _key(source, symbol, timeframe)
        added = _multirange(Span(start, end), key["timeframe"])
        if added is None:
            return
        statement = insert(CoverageRow).values(**key, covered=added)
        merged = CoverageRow.covered.op("+")(statement.excluded.covered)
        with self.database.session() as session:
            session.execute(statement.on_conflict_do_update(constraint="pk_coverage", set_={"covered": merged}))

    def intervals(self, source: str, symbol: str, timeframe: str | Timeframe) -> list[Span]:
        """What is complete, in order; neighbours are one."""
        key = _key(source, symbol, timeframe)
        covered = sa.select(CoverageRow.covered).filter_by(**key).scalar_subquery()
        return self._spans(covered)

    def missing(self, source: str, symbol: str, timeframe: str | Timeframe, span: Span) -> list[Span]:
        """Parts of a span that were never asked for, in order and on the grid; each holds a bar."""
        key = _key(source, symbol, timeframe)
        wanted = _multirange(span, key["timeframe"])
        if wanted is None:
            return []
        covered = sa.select(CoverageRow.covered).filter_by(**key).scalar_subquery()
        return self._spans(wanted.op("-")(sa.func.coalesce(covered, sa.func.tstzmultirange())))

    def forget(self, source: str, symbol: str, timeframe: str | Timeframe, span: Span) -> None:
        """Take bars out, so that they are asked for again."""
        key = _key(source, symbol, timeframe)
        gone = _multirange(span, key["timeframe"])
        if gone is None:
            return
        left = CoverageRow.covered.op("-")(gone)
        with self.database.session() as session:
            session.execute(sa.update(CoverageRow).filter_by(**key).values(covered=left))

    def _spans(self, multirange: sa.ColumnElement[Any]) -> list[Span]:
        # psycopg2 does not know multiranges; it gets their ends.
        part = sa.func.unnest(multirange).column_valued("part")
        query = sa.select(sa.func.lower(part), sa.func.upper(part)).order_by(part)
        with self.database.session() as session:
            return [Span(_utc(start), _utc(end)) for start, end in session.execute(query)]


def _key(source: str, symbol: str, timeframe: str | Timeframe) -> dict[str, str]:
    return {"source": source, "symbol": normalize_symbol(symbol), "timeframe": Timeframe.parse(timeframe).value}


def _multirange(span: Span, timeframe: str) -> sa.ColumnElement[Any] | None:
    """SQL of the bars of a span, None when it has none."""
    bars = on_grid(span, Timeframe(timeframe))
    if bars.start is not None and bars.end is not None and bars.start >= bars.end:
        return None
    ends = (sa.cast(moment, sa.DateTime(timezone=True)) for moment in (bars.start, bars.end))
    return sa.func.tstzmultirange(sa.func.tstzrange(*ends), type_=TSTZMULTIRANGE)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
