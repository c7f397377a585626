"""The task queue of this process's settings, and where the UI shows a task. Nothing here imports Dagster."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines.tasks.queue import TaskQueue

# Name of the dynamic set of partitions, a task each, and of the job that works them off.
TASKS_PARTITIONS = "tasks"
TASK_JOB = "backtest_task_job"
# A daemon gives a sign every 30 s.
_SILENT_SECONDS = 120


@cache
def open_queue() -> TaskQueue:
    """Task queue with the configured attempts and timeout; starts the embedded server if need be."""
    settings = get_settings()
    return TaskQueue(
        open_database(), max_attempts=settings.task_max_attempts, timeout_seconds=settings.task_timeout_seconds
    )


def is_daemon_silent(database: Database) -> bool:
    """Whether no daemon of the instance gave a sign of life lately, so that nothing will start a queued task.

    Asked of Dagster's own table, because importing Dagster takes longer than a submission may.
    """
    silence = "SELECT extract(epoch FROM now() AT TIME ZONE 'UTC' - max(timestamp)) FROM dagster.daemon_heartbeats"
    with database.session() as session:
        if session.scalar(sa.text("SELECT to_regclass('dagster.daemon_heartbeats')")) is None:
            return True
        seconds = session.scalar(sa.text(silence))
    return seconds is None or seconds > _SILENT_SECONDS
