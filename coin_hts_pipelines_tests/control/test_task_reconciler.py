"""What the reconciler makes of queue, runs, files and partitions that do not agree."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import RUN_KEY_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from coin_hts_pipelines.catalog import Database, ResultIndex
from coin_hts_pipelines.catalog.database import dagster_url
from coin_hts_pipelines.control import task_reconciler
from coin_hts_pipelines.control.task_reconciler import TaskReconciler
from coin_hts_pipelines.control.tasks import TASK_JOB, TASKS_PARTITIONS
from coin_hts_pipelines.results.task_store import TaskStore
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.runs import LiveRun, live_runs
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.tasks.task_maker import request, set_back

__all__ = ["_migrated", "database", "new_database"]

Status = dg.DagsterRunStatus


@dg.job(name=TASK_JOB)
def nothing() -> None:
    """Stands for the job of the tasks."""


@pytest.fixture(scope="module")
def storage(_migrated: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    home = tmp_path_factory.mktemp("dagster")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_POSTGRES_URL", dagster_url(_migrated.url.render_as_string(hide_password=False)))
        patch.setenv("DAGSTER_HOME", str(home))
        patch.setenv("COIN_HTS_DAGSTER_STORAGE", str(home / "storage"))
        with dg.DagsterInstance.from_config(str(CHECKOUT)) as made:
            yield made


@pytest.fixture
def instance(storage: dg.DagsterInstance) -> Iterator[dg.DagsterInstance]:
    """The instance, without runs and partitions."""
    yield storage
    for run in storage.get_runs():
        storage.delete_run(run.run_id)
    for key in storage.get_dynamic_partitions(TASKS_PARTITIONS):
        storage.delete_dynamic_partition(TASKS_PARTITIONS, key)


@pytest.fixture
def queue(database: Database) -> TaskQueue:
    return TaskQueue(database, max_attempts=2)


@pytest.fixture
def reconciler(instance: dg.DagsterInstance, queue: TaskQueue, tmp_path: Path) -> TaskReconciler:
    return TaskReconciler(instance, queue, TaskStore(tmp_path))


def run_of(instance: dg.DagsterInstance, key: str, status: Status) -> str:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="nowhere"))
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "repository"), TASK_JOB)
    tags = {RUN_KEY_TAG: key}
    return instance.create_run_for_job(nothing, status=status, tags=tags, remote_job_origin=origin).run_id


def task_for(queue: TaskQueue, key: str, run_id: str | None) -> str:
    """A task that was claimed for a run, and started if there is a run id."""
    task = queue.submit(request())
    (claim,) = queue.claim(run_key=key)
    if run_id is not None:
        assert queue.start(claim, run_id, "host:1")
    return task.id


UNTOUCHED = ("queued", 1, "key")
QUEUED_AGAIN = ("queued", 1, None)
CASES = {
    # status of the run (None: there is none), whether the task was started, seconds that have passed, what it becomes
    "failed before it began": (Status.FAILURE, False, 0, QUEUED_AGAIN),
    "failed in the middle": (Status.FAILURE, True, 0, QUEUED_AGAIN),
    "ended without a word": (Status.SUCCESS, True, 0, QUEUED_AGAIN),
    "cancelled in the UI before it began": (Status.CANCELED, False, 0, ("cancelled", 1, "key")),
    "cancelled in the UI, worker gone": (Status.CANCELED, True, 0, ("cancelled", 1, "key")),
    "at work": (Status.STARTED, True, 0, ("running", 1, "key")),
    "in Dagster's queue": (Status.QUEUED, False, 0, UNTOUCHED),
    "in Dagster's queue for half an hour": (Status.QUEUED, False, 1800, UNTOUCHED),
    "in Dagster's queue for two hours": (Status.QUEUED, False, 7200, QUEUED_AGAIN),
    "starting": (Status.STARTING, False, 50, UNTOUCHED),
    "not launched yet": (None, False, 50, UNTOUCHED),
    "never launched": (None, False, 70, QUEUED_AGAIN),
    "silent for less than a minute": (Status.STARTED, True, 50, ("running", 1, "key")),
    "silent for more": (Status.STARTED, True, 70, QUEUED_AGAIN),
}


@pytest.mark.parametrize(("status", "started", "seconds", "becomes"), CASES.values(), ids=CASES)
def test_a_task_and_its_run(
    reconciler: TaskReconciler,
    queue: TaskQueue,
    status: Status | None,
    started: bool,
    seconds: float,
    becomes: tuple[str, int, str | None],
) -> None:
    run_id = run_of(reconciler.instance, "key", status) if status else None
    task_id = task_for(queue, "key", run_id if started else None)
    set_back(queue.database, seconds)
    found, _ = reconciler.reconcile()
    task = queue.get(task_id)
    assert (task.state, task.attempts, task.run_key) == becomes
    named = {"queued again": found.requeued, "cancelled": found.cancelled}
    changed = becomes == QUEUED_AGAIN or becomes[0] == "cancelled"
    # One that is cancelled while it waits for its run is so at once, with nothing to be reaped.
    reaped = changed and not (becomes[0] == "cancelled" and not started)
    assert [task_id] * reaped == [*named["queued again"], *named["cancelled"]]
    if becomes[0] == "cancelled":
        assert task.cancel_reason == f"run {run_id} was cancelled"
    again, _ = reconciler.reconcile()
    assert not again.requeued
    assert not again.cancelled


def test_the_last_attempt_fails_with_a_manifest_an_index_row_and_a_letter(
    reconciler: TaskReconciler, queue: TaskQueue
) -> None:
    task_id = task_for(queue, "first", run_of(reconciler.instance, "first", Status.FAILURE))
    reconciler.reconcile()
    set_back(queue.database)  # the pause before the next attempt
    (claim,) = queue.claim(run_key="second")
    assert queue.start(claim, run_of(reconciler.instance, "second", Status.FAILURE), "host:1")
    directory = reconciler.store.begin(task_id, claim.attempt)
    half_written = directory.folder / f".KRW-BTC.{claim.attempt}.tmp"
    half_written.mkdir()
    found, _ = reconciler.reconcile()
    assert found.failed == [task_id]
    task = queue.get(task_id)
    assert (task.state, task.attempts, task.error_kind) == ("failed", 2, "lost")
    stored = reconciler.store.load(task_id)
    assert stored.manifest.error == task.error
    assert stored.manifest.finished_symbols == ()
    assert sorted(path.name for path in stored.folder.iterdir()) == ["manifest.json"]
    row = ResultIndex(queue.database).get(task_id)
    assert (row.status, row.error, row.path) == ("failed", task.error, str(stored.folder))
    with queue.database.session() as session:
        letters = session.execute(sa.text("SELECT task_id, attempts FROM catalog.dead_letters")).all()
    assert [tuple(letter) for letter in letters] == [(task_id, 2)]


def test_a_cancel_that_a_dead_worker_never_heard_of_removes_the_files(
    reconciler: TaskReconciler, queue: TaskQueue
) -> None:
    task_id = task_for(queue, "key", run_of(reconciler.instance, "key", Status.STARTED))
    directory = reconciler.store.begin(task_id, 1)
    (directory.folder / "KRW-BTC").mkdir()
    queue.cancel(task_id, "not needed")
    set_back(queue.database, 70)
    found, _ = reconciler.reconcile()
    assert found.cancelled == [task_id]
    assert not directory.folder.exists()


def test_files_that_cannot_be_closed_do_not_keep_the_task_from_ending(
    reconciler: TaskReconciler, queue: TaskQueue, tmp_path: Path
) -> None:
    task_id = task_for(queue, "key", run_of(reconciler.instance, "key", Status.FAILURE))
    queue.cancel(task_id, "not needed")
    (tmp_path / "elsewhere").mkdir()
    reconciler.store.root.mkdir()
    reconciler.store.folder(task_id).symlink_to(tmp_path / "elsewhere")
    found, _ = reconciler.reconcile()
    assert found.cancelled == [task_id]
    assert (tmp_path / "elsewhere").is_dir()


# ---- runs without tasks


def long_ago(cursor: str) -> str:
    return json.dumps({run_id: since - 61 for run_id, since in json.loads(cursor).items()})


@pytest.mark.parametrize("status", [Status.STARTED, Status.STARTING, Status.CANCELING, Status.NOT_STARTED])
def test_a_run_that_holds_no_task_is_ended_after_a_minute(reconciler: TaskReconciler, status: Status) -> None:
    instance = reconciler.instance
    run_id = run_of(instance, "key", status)
    found, cursor = reconciler.reconcile()
    assert found.ended_runs == []
    assert list(json.loads(cursor)) == [run_id]
    found, cursor = reconciler.reconcile(cursor)
    assert found.ended_runs == []
    found, cursor = reconciler.reconcile(long_ago(cursor))
    assert found.ended_runs == [run_id]
    assert instance.get_run_by_id(run_id).status is Status.FAILURE  # type: ignore[union-attr]
    assert reconciler.reconcile(cursor)[0].ended_runs == []


def test_a_run_that_holds_a_task_is_left_alone(reconciler: TaskReconciler, queue: TaskQueue) -> None:
    run_id = run_of(reconciler.instance, "key", Status.STARTED)
    task_for(queue, "key", run_id)
    found, cursor = reconciler.reconcile(json.dumps({run_id: time.time() - 1000}))
    assert found.ended_runs == []
    assert json.loads(cursor) == {}


def test_a_run_whose_tasks_were_cancelled_before_it_began_is_not_started(
    reconciler: TaskReconciler, queue: TaskQueue
) -> None:
    run_id = run_of(reconciler.instance, "key", Status.QUEUED)
    queue.cancel(task_for(queue, "key", None), "not needed")
    found, _ = reconciler.reconcile()
    assert found.ended_runs == [run_id]
    assert reconciler.instance.get_run_by_id(run_id).status is Status.CANCELED  # type: ignore[union-attr]


def test_a_run_that_is_made_while_it_looks_is_left_alone(
    reconciler: TaskReconciler, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def look(database: Database) -> list[LiveRun]:
        found = live_runs(database)
        if not looked and sys._getframe(1).f_code.co_name == "_end_idle_runs":
            looked.append(task_for(queue, "new", None))
            run_of(reconciler.instance, "new", Status.QUEUED)
        return found

    monkeypatch.setattr(task_reconciler, "live_runs", look)
    found, _ = reconciler.reconcile()
    assert looked
    assert found.ended_runs == []
    assert reconciler.reconcile()[0].ended_runs == []
    assert queue.get(looked[0]).state == "queued"


@pytest.mark.parametrize("cursor", [None, "", "{", "[1]", "7"])
def test_any_cursor_is_read(reconciler: TaskReconciler, cursor: str | None) -> None:
    run_of(reconciler.instance, "key", Status.STARTED)
    found, _ = reconciler.reconcile(cursor)
    assert found.ended_runs == []


def test_runs_of_other_jobs_are_none_of_its_business(reconciler: TaskReconciler) -> None:
    @dg.job
    def another() -> None: ...

    run = reconciler.instance.create_run_for_job(another, status=Status.STARTED)
    _, cursor = reconciler.reconcile()
    found, _ = reconciler.reconcile(json.dumps({run.run_id: 0.0}))
    assert (found.ended_runs, json.loads(cursor)) == ([], {})


# ---- partitions


def cleaned(queue: TaskQueue, task_id: str) -> None:
    with queue.database.session() as session:
        session.execute(
            sa.text("UPDATE catalog.tasks SET cleaned_at = now() WHERE id = :task_id"), {"task_id": task_id}
        )


def waits(queue: TaskQueue) -> str:
    return queue.submit(request()).id


def at_work(queue: TaskQueue) -> str:
    return task_for(queue, "live", "run")


def completed(queue: TaskQueue) -> str:
    task_id = waits(queue)
    (claim,) = queue.claim(run_key="ended")
    assert queue.start(claim, "run", "host:1")
    assert queue.complete(claim, "/somewhere")
    return task_id


def completed_and_cleaned(queue: TaskQueue) -> str:
    task_id = completed(queue)
    cleaned(queue, task_id)
    return task_id


def cancelled(queue: TaskQueue) -> str:
    task_id = waits(queue)
    queue.cancel(task_id, "not needed")
    return task_id


def cancelled_beside_one_at_work(queue: TaskQueue) -> str:
    task_id = waits(queue)
    queue.submit(request())
    first, second = queue.claim(run_key="shared")
    assert first.task_id == task_id
    assert queue.start(second, "run", "host:1")
    queue.cancel(task_id, "not needed")
    return task_id


def unknown(queue: TaskQueue) -> str:
    return "by-hand"


PARTITIONS: dict[Callable[[TaskQueue], str], bool] = {
    waits: True,
    at_work: True,
    completed: True,
    completed_and_cleaned: False,
    cancelled: False,
    cancelled_beside_one_at_work: True,
    unknown: False,
}


@pytest.mark.parametrize(("make", "stays"), PARTITIONS.items(), ids=lambda one: getattr(one, "__name__", None))
def test_the_partition_of_a_task(
    reconciler: TaskReconciler, queue: TaskQueue, make: Callable[[TaskQueue], str], stays: bool
) -> None:
    key = make(queue)
    for run_key in ("live", "ended", "shared"):
        run_of(reconciler.instance, run_key, Status.STARTED)
    reconciler.instance.add_dynamic_partitions(TASKS_PARTITIONS, [key])
    found, _ = reconciler.reconcile()
    assert (key in reconciler.instance.get_dynamic_partitions(TASKS_PARTITIONS)) is stays
    assert (found.removed_partitions == []) is stays


def test_files_of_an_attempt_before_the_cancel_go_with_the_partition(
    reconciler: TaskReconciler, queue: TaskQueue
) -> None:
    task_id = task_for(queue, "key", run_of(reconciler.instance, "key", Status.FAILURE))
    directory = reconciler.store.begin(task_id, 1)
    reconciler.instance.add_dynamic_partitions(TASKS_PARTITIONS, [task_id])
    reconciler.reconcile()
    assert queue.get(task_id).state == "queued"
    assert directory.folder.exists()
    queue.cancel(task_id, "not needed")
    found, _ = reconciler.reconcile()
    assert found.removed_partitions == [task_id]
    assert not directory.folder.exists()


def test_what_was_put_right_is_one_line(reconciler: TaskReconciler, queue: TaskQueue) -> None:
    assert str(reconciler.reconcile()[0]) == ""
    task_id = task_for(queue, "key", run_of(reconciler.instance, "key", Status.FAILURE))
    assert str(reconciler.reconcile()[0]) == f"queued again: 1 ({task_id})"
