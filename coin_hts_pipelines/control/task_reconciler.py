"""Makes the queue, Dagster's runs and the partitions agree again, whatever was killed in between (docs/tasks.md).

It alone tries tasks again whose worker is gone; the worker does so for the ones it still can speak for.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.tags import RUN_KEY_TAG

from coin_hts_pipelines.catalog import ResultIndex
from coin_hts_pipelines.control.tasks import TASK_JOB, TASKS_PARTITIONS
from coin_hts_pipelines.errors import CoinHtsError, InvalidRequest
from coin_hts_pipelines.results.task_store import TaskStore
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.runs import LiveRun, live_runs, task_states
from coin_hts_pipelines.tasks.task import Task

# A run may wait long for its turn, and each claim uses up an attempt.
UNSTARTED_SECONDS = 3600.0

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

_log = logging.getLogger(__name__)


@dataclass
class Reconciled:
    """What was put right, by id."""

    requeued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    ended_runs: list[str] = field(default_factory=list)
    removed_partitions: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line; empty when nothing was to be done."""
        parts = {
            "queued again": self.requeued,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "runs ended": self.ended_runs,
            "partitions removed": self.removed_partitions,
        }
        return "; ".join(f"{what}: {len(ids)} ({', '.join(ids[:5])})" for what, ids in parts.items() if ids)


class TaskReconciler:
    """Compares the queue with an instance.

    Parameters
    ----------
    instance
        Where the runs are.
    queue
        Where the tasks are.
    store
        Where the results are.
    lost_seconds
        After so long a worker that was not heard of is gone, a run that was not launched will not be (the daemon
        resumes a sensor's tick that was cut short, if it lives), and a run without tasks does not end by itself.
    """

    def __init__(
        self, instance: dg.DagsterInstance, queue: TaskQueue, store: TaskStore, *, lost_seconds: float = 60
    ) -> None:
        self.instance = instance
        self.queue = queue
        self.store = store
        self.lost_seconds = lost_seconds

    def reconcile(self, cursor: str | None = None) -> tuple[Reconciled, str]:
        """Look once; the cursor remembers since when a run has had nothing to do."""
        found = Reconciled()
        self._reap(found)
        cursor = self._end_idle_runs(found, cursor)
        self._remove_partitions(found)
        return found, cursor

    # ---- tasks

    def _reap(self, found: Reconciled) -> None:
        ended = self._ended_runs(live_runs(self.queue.database))
        for task in self.queue.reap(
            heartbeat_older_than=self.lost_seconds, unstarted_older_than=UNSTARTED_SECONDS, ended_runs=ended
        ):
            by_state = {"queued": found.requeued, "failed": found.failed, "cancelled": found.cancelled}
            by_state[task.state].append(task.id)
            self._close(task)

    def _ended_runs(self, live: Sequence[LiveRun]) -> list[str]:
        """Run keys of runs that have ended or were never made; tasks of one that a person cancelled are cancelled."""
        known = self._runs_by_key([run.run_key for run in live])
        ended = []
        for run in live:
            record = known.get(run.run_key)
            if record is None:
                if run.claimed_seconds_ago > self.lost_seconds:
                    ended.append(run.run_key)
            elif record.status in FINISHED_STATUSES:
                if record.status is dg.DagsterRunStatus.CANCELED:
                    self._cancel(run, record.run_id)
                ended.append(run.run_key)
        return ended

    def _runs_by_key(self, keys: Sequence[str]) -> dict[str, dg.DagsterRun]:
        if not keys:
            return {}
        runs = self.instance.get_runs(dg.RunsFilter(job_name=TASK_JOB, tags={RUN_KEY_TAG: list(keys)}))
        return {run.tags[RUN_KEY_TAG]: run for run in runs}

    def _cancel(self, run: LiveRun, run_id: str) -> None:
        for task_id in run.task_ids:
            try:
                self.queue.cancel(task_id, f"run {run_id} was cancelled")
            except InvalidRequest:
                continue  # it has ended meanwhile

    def _close(self, task: Task) -> None:
        """Bring the files of a task whose worker is gone to their end; what fails here the clean-up removes."""
        try:
            if task.state == "cancelled":
                self.store.remove(task.id)
            elif task.state == "failed":
                directory = self.store.begin(task.id, task.attempts)
                manifest = directory.finish(
                    task.document,
                    tuple(task.document["symbols"]),
                    started=task.created_at,
                    error=task.error,
                )
                ResultIndex(self.queue.database).add([(self.store.folder(task.id), manifest)])
        except (CoinHtsError, OSError) as error:
            _log.warning("the files of task %s cannot be brought to their end: %s", task.id, error)

    # ---- runs

    def _end_idle_runs(self, found: Reconciled, cursor: str | None) -> str:
        """End runs whose process is gone: Dagster does not notice, and they would hold their slots for hours."""
        # In this order: tasks are claimed before their run is made, so that a run seen here has had its tasks.
        unfinished = self.instance.get_runs(dg.RunsFilter(job_name=TASK_JOB, statuses=_UNFINISHED))
        busy = {run.run_key for run in live_runs(self.queue.database)}
        before, now = _read(cursor), time.time()
        idle: dict[str, float] = {}
        for run in unfinished:
            if run.tags.get(RUN_KEY_TAG) in busy:
                continue
            since = before.get(run.run_id, now)
            if run.status is dg.DagsterRunStatus.QUEUED:
                # All its tasks were cancelled, or taken away from it: there is nothing to start it for.
                self.instance.report_run_canceled(run, "all tasks of the run had ended before it began")
                found.ended_runs.append(run.run_id)
            elif now - since >= self.lost_seconds:
                self._end(run)
                found.ended_runs.append(run.run_id)
            else:
                idle[run.run_id] = since
        return json.dumps(idle)

    def _end(self, run: dg.DagsterRun) -> None:
        try:
            # One that hangs is alive all the same.
            self.instance.run_launcher.terminate(run.run_id)
        except Exception as error:
            _log.info("run %s cannot be terminated: %s", run.run_id, error)
        now = self.instance.get_run_by_id(run.run_id)
        if now is not None and now.status not in FINISHED_STATUSES:
            self.instance.report_run_failed(now, "the process of this run is gone; its tasks were taken away from it")
        self.instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)

    # ---- partitions

    def _remove_partitions(self, found: Reconciled) -> None:
        """A task that was cancelled or cleaned up has no partition and no files.

        The partition goes once no run needs it as an end of its range. A task that was cancelled while it waited for
        another attempt has files of the one before.
        """
        keys = list(self.instance.get_dynamic_partitions(TASKS_PARTITIONS))
        if not keys:
            return
        # In this order: a task that is claimed between the two has a partition that is kept.
        states = task_states(self.queue.database, keys)
        busy = {run.run_key for run in live_runs(self.queue.database)}
        for key in keys:
            state, run_key = states.get(key, ("unknown", None))
            if state not in ("cancelled", "cleaned", "unknown") or run_key in busy:
                continue
            if state == "cancelled":
                try:
                    self.store.remove(key)
                except CoinHtsError as error:
                    _log.warning("the files of task %s cannot be removed: %s", key, error)
            self.instance.delete_dynamic_partition(TASKS_PARTITIONS, key)
            found.removed_partitions.append(key)


def _read(cursor: str | None) -> Mapping[str, float]:
    try:
        read = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}
