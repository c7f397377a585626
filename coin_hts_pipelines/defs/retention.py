"""Retention: a job, and the schedule that starts it every night."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from coin_hts_pipelines.control.retention import prune
from coin_hts_pipelines.defs.resources import ExportStoreResource


# In the pool of the exports, so that none is made while old ones are removed.
@dg.op(out=dg.Out(dg.Nothing), pool="export_store", description="Remove old runs, events, exports, task rows, files.")
def prune_old(context: dg.OpExecutionContext, export_store: ExportStoreResource) -> Iterator[dg.Output[None]]:
    """Prune and say what was removed; fail at the end if something could not be.

    Raises
    ------
    dagster.Failure
        Naming what could not be removed; not retried, the next night tries again.
    """
    report = prune(context.instance, export_store.open)
    document = report.to_dict()
    metadata: dict[str, dg.MetadataValue[Any] | int | float] = {
        **{kind: one["count"] for kind, one in document["removed"].items()},
        "bytes of files": sum(one["bytes"] for one in document["removed"].values()),
        "kept runs": report.kept_runs,
        "tables": dg.MetadataValue.json(document["tables"]),
        "problems": dg.MetadataValue.json(document["problems"]),
        "seconds": document["seconds"],
    }
    yield dg.Output(None, metadata=metadata)
    if report.problems:
        text = "; ".join(f"{kind}: {why}" for kind, why in report.problems.items())
        raise dg.Failure(f"could not be removed: {text}", metadata=metadata, allow_retries=False)


@dg.job(name="prune_storage", description="Remove what is older than the settings say.")
def prune_storage_job() -> None:
    """Prune."""
    prune_old()


def prune_storage_schedule() -> dg.ScheduleDefinition:
    """Every night at half past three in Seoul, after the backup."""
    return dg.ScheduleDefinition(
        name="prune_storage_schedule",
        job=prune_storage_job,
        cron_schedule="30 3 * * *",
        execution_timezone="Asia/Seoul",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Removes finished runs and their events (COIN_HTS_RETENTION_RUN_DAYS; the latest of each partition "
        "stay), exports that are no longer current (COIN_HTS_RETENTION_EXPORT_DAYS), rows of cleaned-up tasks "
        "(COIN_HTS_RETENTION_TASK_DAYS), and files nobody needs.",
    )
