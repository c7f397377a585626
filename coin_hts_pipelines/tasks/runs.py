"""Runs as the queue sees them: which ones hold tasks that have not ended. Not here: what Dagster says of a run."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from coin_hts_pipelines.catalog.database import Database
from coin_hts_pipelines.catalog.models import TaskRow


@dataclass(frozen=True)
class LiveRun:
    """A run key and its tasks that are claimed or running; `run_ids` of those that a worker has started."""

    run_key: str
    run_ids: frozenset[str]
    task_ids: tuple[str, ...]
    claimed_seconds_ago: float


def live_runs(database: Database) -> list[LiveRun]:
    """Runs that hold tasks, the longest claimed first; ages are by the database's clock."""
    age = sa.func.extract("epoch", sa.func.clock_timestamp() - sa.func.min(TaskRow.claimed_at))
    query = (
        sa.select(
            TaskRow.run_key,
            sa.func.array_remove(sa.func.array_agg(sa.distinct(TaskRow.run_id)), None),
            sa.func.array_agg(TaskRow.id),
            age,
        )
        .where(TaskRow.state.in_(("queued", "running")), TaskRow.claimed_at.is_not(None))
        .group_by(TaskRow.run_key)
        .order_by(age.desc())
    )
    with database.session() as session:
        return [
            LiveRun(key, frozenset(run_ids), tuple(sorted(task_ids)), float(seconds))
            for key, run_ids, task_ids, seconds in session.execute(query)
        ]


def task_states(database: Database, task_ids: list[str]) -> dict[str, tuple[str, str | None]]:
    """State and run key by id of those tasks that are known; `cleaned` is one whose files the clean-up removed."""
    query = sa.select(TaskRow.id, TaskRow.state, TaskRow.cleaned_at.is_not(None), TaskRow.run_key)
    with database.session() as session:
        found = session.execute(query.where(TaskRow.id.in_(task_ids)))
        return {task_id: ("cleaned" if cleaned else state, key) for task_id, state, cleaned, key in found}
