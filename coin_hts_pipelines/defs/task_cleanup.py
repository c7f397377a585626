"""The clean-up of tasks: a job, and the schedule that starts it every night."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from coin_hts_pipelines.control.task_cleanup import clean_up_tasks

_SHOWN = 50


@dg.op(out=dg.Out(dg.Nothing), description="Remove directory, partition and index row of tasks that ended long ago.")
def remove_old_tasks(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
    """Clean up and say what was removed; fail at the end if something could not be.

    Raises
    ------
    dagster.Failure
        Naming what could not be removed; not retried, the next night tries again.
    """
    report = clean_up_tasks(context.instance)
    document = report.to_dict()
    metadata: dict[str, dg.MetadataValue[Any] | int] = {
        "removed": len(report.removed),
        "bytes": report.total_bytes,
        "kept": report.kept,
        "tasks": dg.MetadataValue.json(document["removed"][:_SHOWN]),
        "problems": dg.MetadataValue.json(document["problems"]),
        "unknown": dg.MetadataValue.json(list(report.unknown)),
    }
    yield dg.Output(None, metadata=metadata)
    if report.problems:
        text = "; ".join(f"{task_id}: {why}" for task_id, why in list(report.problems.items())[:_SHOWN])
        raise dg.Failure(f"could not be removed: {text}", metadata=metadata, allow_retries=False)


@dg.job(name="clean_up_tasks", description="Remove what tasks left that ended longer ago than the settings say.")
def task_cleanup_job() -> None:
    """Clean up."""
    remove_old_tasks()


def task_cleanup_schedule() -> dg.ScheduleDefinition:
    """Every night at midnight in Seoul."""
    return dg.ScheduleDefinition(
        name="clean_up_tasks_schedule",
        job=task_cleanup_job,
        cron_schedule="0 0 * * *",
        execution_timezone="Asia/Seoul",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Removes files, partitions and index rows of tasks that ended longer ago than the settings say "
        "(COIN_HTS_TASK_RESULT_TTL_DAYS, COIN_HTS_TASK_FAILED_TTL_DAYS); tasks with the keep flag stay.",
    )
