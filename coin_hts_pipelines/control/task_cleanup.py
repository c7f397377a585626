"""The clean-up of tasks on an instance, by the settings of this process."""

from __future__ import annotations

from collections.abc import Sequence

from dagster import DagsterInstance

from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.control.tasks import TASKS_PARTITIONS
from coin_hts_pipelines.results.task_store import TaskStore
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines.tasks.cleanup import CleanupReport, clean_up


def clean_up_tasks(instance: DagsterInstance, dry_run: bool = False) -> CleanupReport:
    """Remove what finished tasks left, their partitions included; raises as `tasks.cleanup.clean_up`."""
    settings = get_settings()

    def forget(task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            instance.delete_dynamic_partition(TASKS_PARTITIONS, task_id)

    return clean_up(
        open_database(),
        TaskStore(settings.root),
        completed_days=settings.task_result_ttl_days,
        failed_days=settings.task_failed_ttl_days,
        forget_partitions=forget,
        dry_run=dry_run,
    )
