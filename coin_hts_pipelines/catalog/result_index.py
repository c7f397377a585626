"""The result index: key figures of every result, found by SQL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from coin_hts_pipelines.catalog.database import Database
from coin_hts_pipelines.catalog.models import ResultRow
from coin_hts_pipelines.errors import InvalidRequest
from coin_hts_pipelines.results import Manifest


class ResultIndex:
    """Results in Postgres."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, results: Sequence[tuple[Path, Manifest]]) -> int:
        """Index results by their manifests; known ids are left alone. Returns how many were new."""
        with self.database.session() as session:
            return self.add_to(session, results)

    @staticmethod
    def add_to(session: Session, results: Sequence[tuple[Path, Manifest]]) -> int:
        """Index results as part of a transaction."""
        if not results:
            return 0
        rows = [
            {
                "id": manifest.id,
                "preset": manifest.preset,
                "task": manifest.task,
                "strategy": manifest.strategy,
                "timeframe": manifest.timeframe,
                "symbols": list(manifest.symbols),
                "status": "failed" if manifest.error else "completed",
                "start_date": manifest.span_start,
                "end_date": manifest.span_end,
                "candle_source": manifest.candle_source,
                "request": manifest.request,
                "figures": manifest.figures,
                "inputs_digest": manifest.inputs_digest,
                "result_digest": manifest.result_digest,
                "path": str(folder),
                "finished_at": manifest.finished,
                "duration_seconds": manifest.duration_seconds,
                "error": manifest.error,
            }
            for folder, manifest in results
        ]
        statement = insert(ResultRow).values(rows).on_conflict_do_nothing().returning(ResultRow.id)
        return len(list(session.scalars(statement)))

    def list(
        self,
        *,
        preset: str | None = None,
        symbol: str | None = None,
        timeframe: str | None = None,
        strategy: str | None = None,
        limit: int = 20,
    ) -> list[ResultRow]:
        """Newest results first, filtered."""
        query = sa.select(ResultRow).order_by(ResultRow.finished_at.desc(), ResultRow.id.desc()).limit(limit)
        if preset is not None:
            query = query.where(ResultRow.preset == preset)
        if timeframe is not None:
            query = query.where(ResultRow.timeframe == timeframe)
        if strategy is not None:
            query = query.where(ResultRow.strategy == strategy)
        if symbol is not None:
            query = query.where(ResultRow.symbols.contains([symbol]))
        with self.database.session() as session:
            return list(session.scalars(query))

    def get(self, result_id: str) -> ResultRow:
        """Return one result by its id or an unambiguous beginning or end of it.

        Raises
        ------
        InvalidRequest
            If none or several match.
        """
        query = (
            sa.select(ResultRow)
            .where(
                ResultRow.id.startswith(result_id, autoescape=True) | ResultRow.id.endswith(result_id, autoescape=True)
            )
            .limit(2)
        )
        with self.database.session() as session:
            found = list(session.scalars(query))
        if len(found) != 1:
            problem = "matches several results" if found else "is unknown"
            raise InvalidRequest(f"result {result_id!r} {problem}; see `coin-hts backtest list`")
        return found[0]
