"""Backups by the clock: a job that makes one and removes old ones, and one that restores the newest for practice.

That they fail is said by the sensor of failed runs, under kinds of their own; that none was made at all, by the sensor
of conditions.
"""

import dagster as dg

from coin_hts_pipelines.control.backup import BACKUP_JOB, DRILL_JOB, PRUNE_ALERT, alerting, note_killed
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.control.run_owners import own
from coin_hts_pipelines.defs.partitioned_work import interrupts_end_the_run, never_retried
from coin_hts_pipelines.errors import Cancelled, CoinHtsError
from coin_hts_pipelines.operations.backup import (
    Busy,
    Keep,
    create_backup,
    drill_backup,
    open_target,
    prune_backups,
)
from coin_hts_pipelines.settings import Settings, get_settings

# A store or a server that is away is often back within minutes; another backup under way ends.
_RETRY = dg.RetryPolicy(max_retries=3, delay=60, backoff=dg.Backoff.EXPONENTIAL)
# Once the backup of the night is made, on the quietest day.
_DRILL = "30 4 * * 0"


@dg.op(out=dg.Out(dg.Nothing), retry_policy=_RETRY, description="Back up.")
def make_backup(context: dg.OpExecutionContext) -> None:
    """Make a backup."""
    own(context.instance, context.run)
    settings = get_settings()
    note_killed()
    try:
        with interrupts_end_the_run(context), never_retried():
            target = open_target(settings)
            made = create_backup(settings, open_database(), target)
    except Busy as error:
        policy = context.op_def.retry_policy
        if policy is not None and context.retry_number < policy.max_retries:
            raise
        # Nothing failed: whoever is in the way backs up, or a person restores. That no backup comes of it, age says.
        context.instance.report_run_canceling(context.run, str(error))
        raise dg.Failure(str(error), allow_retries=False) from error
    context.add_output_metadata(
        {
            "backup": made.id,
            "target": target.url,
            "files": len(made.files),
            "bytes": made.size,
            "new_bytes": made.new_bytes,
            "rows": sum(made.tables.values()),
            "seconds": (made.finished - made.created).total_seconds(),
        }
    )


@dg.op(ins={"made": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing), description="Remove backups that are not to be kept.")
def remove_old_backups(context: dg.OpExecutionContext) -> None:
    """Prune; the backup is made, so a failure is an alert of its own and no failed run. The next night tries again."""
    settings = get_settings()
    try:
        with interrupts_end_the_run(context), alerting(*PRUNE_ALERT):
            pruned = prune_backups(open_target(settings), Keep.of(settings))
    except Cancelled:
        raise
    except CoinHtsError as error:
        context.log.error(f"old backups cannot be removed: {error}")
        context.add_output_metadata({"problem": str(error)})
        return
    context.add_output_metadata({"pruned": list(pruned.backups), "pruned_bytes": pruned.bytes})


@dg.op(
    out=dg.Out(dg.Nothing), retry_policy=_RETRY, description="Restore the newest backup beside everything, and look."
)
def restore_for_practice(context: dg.OpExecutionContext) -> None:
    """Practise."""
    own(context.instance, context.run)
    settings = get_settings()
    with interrupts_end_the_run(context), never_retried():
        report = drill_backup(settings, open_target(settings))
    shown = report.model_dump(mode="json", exclude={"started_at", "finished_at", "problem"}, exclude_none=True)
    context.add_output_metadata({**shown, "seconds": (report.finished_at - report.started_at).total_seconds()})


@dg.job(name=BACKUP_JOB, description="Back up candles, results and the database, and prune old backups.")
def backup_job() -> None:
    """Back up."""
    remove_old_backups(make_backup())


@dg.job(name=DRILL_JOB, description="Restore the newest backup beside everything, compare, compute one result again.")
def drill_job() -> None:
    """Practise."""
    restore_for_practice()


def backup_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """A backup every night and a drill every week, in Seoul."""
    hour, minute = map(int, settings.backup_at.split(":"))
    return [
        _schedule(
            backup_job,
            f"{minute} {hour} * * *",
            "Backs up every night (COIN_HTS_BACKUP_AT), and keeps as many as COIN_HTS_BACKUP_KEEP_* say.",
        ),
        _schedule(
            drill_job,
            _DRILL,
            "Restores the newest backup every Sunday into a scratch folder and Postgres, and compares it.",
        ),
    ]


def _schedule(job: dg.JobDefinition, cron: str, description: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone="Asia/Seoul",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )
