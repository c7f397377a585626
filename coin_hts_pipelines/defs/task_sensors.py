"""What starts the runs of tasks, and what puts right whatever was killed in between. Both are on by default."""

import time
from datetime import UTC, datetime

import dagster as dg

from coin_hts_pipelines.control.pages import task_url
from coin_hts_pipelines.control.task_reconciler import TaskReconciler
from coin_hts_pipelines.control.tasks import TASK_JOB, TASKS_PARTITIONS, open_queue
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START
from coin_hts_pipelines.defs.tasks import task_partitions
from coin_hts_pipelines.operations.alert_outbox import OutboxAlerts
from coin_hts_pipelines.results.publish import new_id
from coin_hts_pipelines.results.task_store import TaskStore
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines.tasks.alerts import announce_dead_letters
from coin_hts_pipelines.tasks.dead_letters import DeadLetters
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.runs import live_runs
from coin_hts_pipelines.tasks.task import Claim

# The daemon looks at its sensors every five seconds, however short their interval: a tick waits for work until then.
_WAIT_SECONDS = 4.3
_PAUSE_SECONDS = 0.2


def dispatch_sensor() -> dg.SensorDefinition:
    """Start a run for the tasks that wait together."""

    @dg.sensor(
        name="dispatch_tasks",
        job_name=TASK_JOB,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Claims waiting tasks and starts a run for up to COIN_HTS_TASK_BATCH of them together.",
    )
    def dispatch_tasks(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        queue, settings = open_queue(), get_settings()
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            waits = queue.has_due()
            if waits and (free := settings.task_runs - len(live_runs(queue.database))) > 0:
                batches = _claim(queue, free, settings.task_batch)
                if batches:
                    return _runs(context, batches)
            if time.monotonic() > deadline:
                return dg.SkipReason("all runs of tasks are taken" if waits else "no task waits")
            time.sleep(_PAUSE_SECONDS)

    return dispatch_tasks


def _claim(queue: TaskQueue, runs: int, batch: int) -> dict[str, list[Claim]]:
    """Claims by run key, for so many runs at most."""
    batches: dict[str, list[Claim]] = {}
    for _ in range(runs):
        key = new_id(datetime.now(UTC))
        claims = queue.claim(batch, run_key=key)
        if not claims:
            break
        # Fewer than asked for need not be the last: a large sweep goes alone.
        batches[key] = claims
    return batches


def _runs(context: dg.SensorEvaluationContext, batches: dict[str, list[Claim]]) -> dg.SensorResult:
    ids = {key: [claim.task_id for claim in claims] for key, claims in batches.items()}
    wanted = [task_id for batch in ids.values() for task_id in batch]
    # A run covers a range of partitions in the order they were added: tasks that are tried again are added anew.
    known = set(context.instance.get_dynamic_partitions(TASKS_PARTITIONS))
    for task_id in known.intersection(wanted):
        # A result may not ask for both.
        context.instance.delete_dynamic_partition(TASKS_PARTITIONS, task_id)
    return dg.SensorResult(
        dynamic_partitions_requests=[task_partitions().build_add_request(wanted)],
        run_requests=[
            dg.RunRequest(run_key=key, partition_key=batch[0])
            if len(batch) == 1
            else dg.RunRequest(run_key=key, tags={RANGE_START: batch[0], RANGE_END: batch[-1]})
            for key, batch in ids.items()
        ],
    )


def reconcile_sensor() -> dg.SensorDefinition:
    """Find tasks whose worker is gone, runs without tasks, partitions without a task, and dead letters to announce."""

    @dg.sensor(
        name="reconcile_tasks",
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Queues tasks again whose worker is gone, or ends them, and says so of the ones that died.",
    )
    def reconcile_tasks(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        queue, settings = open_queue(), get_settings()
        store = TaskStore(settings.root)
        reconciler = TaskReconciler(context.instance, queue, store, lost_seconds=settings.task_lost_seconds)
        found, cursor = reconciler.reconcile(context.cursor)
        told = announce_dead_letters(DeadLetters(queue), OutboxAlerts(queue.database), task_url)
        said = "; ".join(part for part in (str(found), f"alerts: {told}" if told else "") if part)
        return dg.SensorResult(skip_reason=dg.SkipReason(said or "queue and runs agree"), cursor=cursor)

    return reconcile_tasks
