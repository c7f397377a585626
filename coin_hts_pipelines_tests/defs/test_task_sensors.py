"""The sensors of the tasks: what one tick claims, launches and puts right."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.control.tasks import TASK_JOB, TASKS_PARTITIONS, open_queue
from coin_hts_pipelines.defs import build_defs, task_sensors
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START
from coin_hts_pipelines.errors import PermanentError
from coin_hts_pipelines.operations.alert_delivery import AlertOutbox
from coin_hts_pipelines.tasks import queue as queue_module
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.tasks.task_maker import request, set_back

__all__ = ["_migrated", "database", "new_database"]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.fixture
def queue(home: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> TaskQueue:
    """The queue of a project with a catalog of its own, and ticks that do not wait for work."""
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("COIN_HTS_TASK_BATCH", "3")
    monkeypatch.setenv("COIN_HTS_TASK_RUNS", "2")
    monkeypatch.setattr(task_sensors, "_WAIT_SECONDS", 0.0)
    return open_queue()


def tick(instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    """One tick of the dispatch sensor; the partitions it asks for are added, as the daemon does."""
    sensor = task_sensors.dispatch_sensor()
    answer = sensor(dg.build_sensor_context(instance=instance, definitions=build_defs()))
    assert isinstance(answer, dg.SensorResult | dg.SkipReason)
    if isinstance(answer, dg.SensorResult):
        for asked in answer.dynamic_partitions_requests or []:
            assert isinstance(asked, dg.AddDynamicPartitionsRequest)
            assert asked.partitions_def_name == TASKS_PARTITIONS
            instance.add_dynamic_partitions(TASKS_PARTITIONS, asked.partition_keys)
    return answer


def launched(instance: dg.DagsterInstance) -> Sequence[dg.RunRequest]:
    answer = tick(instance)
    assert isinstance(answer, dg.SensorResult)
    return answer.run_requests or []


def keys_of(instance: dg.DagsterInstance, run: dg.RunRequest) -> list[str]:
    """Partitions a run covers."""
    if run.partition_key is not None:
        return [run.partition_key]
    keys = list(instance.get_dynamic_partitions(TASKS_PARTITIONS))
    return keys[keys.index(run.tags[RANGE_START]) : keys.index(run.tags[RANGE_END]) + 1]


def submitted(queue: TaskQueue, count: int) -> list[str]:
    return [queue.submit(request()).id for _ in range(count)]


def test_nothing_waits(queue: TaskQueue, instance: dg.DagsterInstance) -> None:
    answer = tick(instance)
    assert isinstance(answer, dg.SkipReason)
    assert answer.skip_message == "no task waits"


def test_a_lone_task_has_a_run_of_its_own(queue: TaskQueue, instance: dg.DagsterInstance) -> None:
    (task_id,) = submitted(queue, 1)
    (run,) = launched(instance)
    assert run.partition_key == task_id
    task = queue.get(task_id)
    assert (task.state, task.attempts, task.run_key) == ("queued", 1, run.run_key)
    assert task.claimed_at is not None


def test_tasks_that_wait_together_share_runs(queue: TaskQueue, instance: dg.DagsterInstance) -> None:
    ids = submitted(queue, 5)
    first, second = launched(instance)
    assert first.run_key != second.run_key
    assert keys_of(instance, first) == ids[:3]
    assert keys_of(instance, second) == ids[3:]
    for run in (first, second):
        assert [claim.task_id for claim in queue.claims_of(str(run.run_key))] == keys_of(instance, run)


def test_large_sweeps_have_runs_of_their_own_in_one_tick(
    queue: TaskQueue, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "BACKTESTS_A_RUN", 1)
    first, second, third = submitted(queue, 3)
    assert [run.partition_key for run in launched(instance)] == [first, second]
    assert queue.get(third).attempts == 0


def test_no_more_runs_than_allowed(queue: TaskQueue, instance: dg.DagsterInstance) -> None:
    ids = submitted(queue, 7)
    first, second = launched(instance)
    assert [*keys_of(instance, first), *keys_of(instance, second)] == ids[:6]
    answer = tick(instance)
    assert isinstance(answer, dg.SkipReason)
    assert answer.skip_message == "all runs of tasks are taken"
    assert queue.get(ids[6]).attempts == 0
    for claim in queue.claims_of(str(first.run_key)):
        queue.cancel(claim.task_id, "to make room")
    (third,) = launched(instance)
    assert keys_of(instance, third) == ids[6:]


def test_tasks_that_are_tried_again_are_one_range_again(queue: TaskQueue, instance: dg.DagsterInstance) -> None:
    ids = submitted(queue, 3)
    (first,) = launched(instance)
    assert keys_of(instance, first) == ids
    late = submitted(queue, 2)
    (second,) = launched(instance)
    assert keys_of(instance, second) == late
    # Of the first run one task is tried again, together with a new one that waits longest.
    queue.cancel(ids[1], "not needed")
    queue.reap(ended_runs=[str(first.run_key)])
    set_back(queue.database)
    (new,) = submitted(queue, 1)
    (third,) = launched(instance)
    assert set(keys_of(instance, third)) == {ids[0], ids[2], new}
    assert keys_of(instance, second) == late


def test_a_tick_waits_for_work(queue: TaskQueue, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_sensors, "_WAIT_SECONDS", 30.0)
    looked = threading.Event()
    has_due = TaskQueue.has_due

    def look(self: TaskQueue) -> bool:
        found = has_due(self)
        looked.set()
        return found

    monkeypatch.setattr(TaskQueue, "has_due", look)
    ids: list[str] = []
    late = threading.Thread(target=lambda: looked.wait(30) and ids.extend(submitted(queue, 1)))
    late.start()
    (run,) = launched(instance)
    late.join()
    assert [run.partition_key] == ids


def test_the_sensors_are_on_and_start_only_the_job_of_the_tasks(queue: TaskQueue) -> None:
    sensors = {sensor.name: sensor for sensor in build_defs().sensors or ()}
    for name in ("dispatch_tasks", "reconcile_tasks"):
        assert sensors[name].default_status is dg.DefaultSensorStatus.RUNNING
    dispatch = sensors["dispatch_tasks"]
    assert isinstance(dispatch, dg.SensorDefinition)
    assert dispatch.job_name == TASK_JOB
    assert dispatch.minimum_interval_seconds == 1


def test_runs_of_tasks_are_retried_by_nobody_else() -> None:
    job = build_defs().resolve_job_def(TASK_JOB)
    assert job.tags["dagster/max_retries"] == "0"
    assert [node.definition.retry_policy for node in job.nodes] == [None]


def test_the_reconciler_says_what_it_did_and_announces_the_dead(queue: TaskQueue, instance: dg.DagsterInstance) -> None:
    def reconcile(cursor: str | None) -> dg.SensorResult:
        answer = task_sensors.reconcile_sensor()(dg.build_sensor_context(instance=instance, cursor=cursor))
        assert isinstance(answer, dg.SensorResult)
        return answer

    def said(answer: dg.SensorResult) -> str:
        reason = answer.skip_reason
        assert isinstance(reason, dg.SkipReason)
        return reason.skip_message or ""

    quiet = reconcile(None)
    assert (said(quiet), quiet.cursor) == ("queue and runs agree", "{}")
    (task_id,) = submitted(queue, 1)
    (claim,) = queue.claim(run_key="key")
    assert queue.start(claim, "run", "host:1")
    queue.fail(claim, PermanentError("the candles are damaged"), "permanent")
    assert said(reconcile(quiet.cursor)) == "alerts: 1"
    assert said(reconcile(quiet.cursor)) == "queue and runs agree"
    (raised,) = AlertOutbox(queue.database, []).list()
    assert (raised.alert.kind, raised.alert.title, raised.times) == ("dead_letter", f"task {task_id} failed", 1)
    assert "the candles are damaged" in raised.alert.text
    page = f"http://127.0.0.1:3000/assets/backtest_task?view=partitions&partition={task_id}"
    assert raised.alert.link == page
