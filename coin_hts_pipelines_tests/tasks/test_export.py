"""Exports: what is in the object store is what the manifest says, and completed means exported."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines.backtest import run_backtest
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.result_index import ResultIndex
from coin_hts_pipelines.errors import Cancelled, IntegrityError, InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.results import task_directory
from coin_hts_pipelines.results.task_store import TaskStore
from coin_hts_pipelines.storage import ObjectStore
from coin_hts_pipelines.strategies import registry
from coin_hts_pipelines.tasks import closer, reporter
from coin_hts_pipelines.tasks import worker as worker_module
from coin_hts_pipelines.tasks.export import TaskExporter
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.task import Signal
from coin_hts_pipelines.tasks.worker import TaskWorker
from coin_hts_pipelines_tests.lake.helpers import fill_the_disk
from coin_hts_pipelines_tests.storage.conftest import shelf, store
from coin_hts_pipelines_tests.swift import swift
from coin_hts_pipelines_tests.tasks.worker_maker import (
    SYMBOLS,
    HookedStore,
    MemoryQueue,
    Slow,
    claim_of,
    fill_lake,
    keys_in,
    paths_in,
    strays_in,
    until,
)

__all__ = ["shelf", "store", "swift"]


@pytest.fixture(autouse=True)
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._found(), "slow", Slow())
    monkeypatch.setattr(Slow, "at", staticmethod(lambda start: None))


@pytest.fixture
def lake(tmp_path: Path) -> CandleStore:
    return fill_lake(tmp_path)


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()


@pytest.fixture
def bucket(tmp_path: Path) -> HookedStore:
    return HookedStore(tmp_path / "bucket")


@pytest.fixture
def export(bucket: HookedStore) -> TaskExporter:
    return TaskExporter(lambda: bucket)


def finished(root: Path, task_id: str = "t", attempt: int = 1) -> Any:
    """Folder and manifest of a task whose four symbols are done."""
    queue = MemoryQueue()
    queue.attempts[task_id] = attempt
    assert TaskWorker(queue, root).run([claim_of(task_id, attempt=attempt)], "r") == {task_id: "completed"}
    stored = TaskStore(root).load(task_id)
    return stored.folder, stored.manifest


def keys_of(manifest: Any) -> list[str]:
    """Keys in the order of the uploads."""
    return [f"tasks/{manifest.id}/{name}" for name in [*(entry.name for entry in manifest.files), "manifest.json"]]


# ---- what is in the store


def test_every_file_arrives_as_it_is(tmp_path: Path, lake: CandleStore, store: ObjectStore) -> None:
    folder, manifest = finished(tmp_path)
    exporter = TaskExporter(lambda: store)
    exporter(folder, manifest, lambda: False)
    assert keys_in(store) == set(keys_of(manifest))
    assert len(manifest.files) == 4 * 5 + 1
    for key in keys_of(manifest):
        info = store.download(key, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == (folder / key.removeprefix("tasks/t/")).read_bytes()
        assert info.metadata["result-digest"] == manifest.result_digest
    manifest.check_files(folder)


@pytest.mark.parametrize("asks", [0, 1, 7, 20, 21])
def test_the_manifest_comes_last_and_goes_first(
    tmp_path: Path, lake: CandleStore, store: ObjectStore, asks: int
) -> None:
    """An export that is cut short has no manifest, also where an earlier one left its own."""
    folder, manifest = finished(tmp_path)
    exporter, asked = TaskExporter(lambda: store), count()
    if asks % 2:
        exporter(folder, manifest, lambda: False)
    with pytest.raises(Cancelled, match="export of task t"):
        exporter(folder, manifest, lambda: next(asked) == asks)
    expected = keys_of(manifest)[:-1] if asks % 2 else keys_of(manifest)[:asks]
    assert keys_in(store) == set(expected)


def test_a_damaged_file_is_not_exported(tmp_path: Path, lake: CandleStore, bucket: HookedStore) -> None:
    folder, manifest = finished(tmp_path)
    (folder / "KRW-XRP" / "trades.parquet").write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="KRW-XRP"):
        TaskExporter(lambda: bucket)(folder, manifest, lambda: False)
    assert keys_in(bucket) == set()


def test_a_file_that_changes_on_the_way_is_noticed(
    tmp_path: Path, lake: CandleStore, bucket: HookedStore, export: TaskExporter
) -> None:
    folder, manifest = finished(tmp_path)
    bucket.at = lambda key: (folder / "summary.parquet").write_bytes(b"changed")
    with pytest.raises(IntegrityError, match="changed while"):
        export(folder, manifest, lambda: False)
    assert "tasks/t/manifest.json" not in keys_in(bucket)


def test_what_is_removed_is_that_of_one_task(tmp_path: Path, lake: CandleStore, store: ObjectStore) -> None:
    exporter = TaskExporter(lambda: store)
    for name in ("t", "t2"):
        exporter(*finished(tmp_path, name), lambda: False)
    objects = len(keys_in(store)) // 2
    assert (exporter.remove("t"), exporter.remove("t"), exporter.remove("never")) == (objects, 0, 0)
    assert keys_in(store) == set(keys_of(TaskStore(tmp_path).manifest("t2")))


@pytest.mark.parametrize("bad", ["", ".", "..", "a\nb"])
def test_ids_that_are_no_key_remove_nothing(bucket: HookedStore, export: TaskExporter, bad: str) -> None:
    with pytest.raises(InvalidRequest, match="key"):
        export.remove(bad)


def test_the_manifest_is_removed_first(
    tmp_path: Path, lake: CandleStore, bucket: HookedStore, export: TaskExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(*finished(tmp_path), lambda: False)
    delete = bucket.delete

    def broken(key: str) -> None:
        delete(key)
        raise TransientError("the connection broke")

    monkeypatch.setattr(bucket, "delete", broken)
    with pytest.raises(TransientError):
        export.remove("t")
    assert "tasks/t/manifest.json" not in keys_in(bucket)


def test_the_store_is_opened_once_when_it_is_needed(bucket: HookedStore) -> None:
    opened: list[threading.Thread] = []
    ready = threading.Barrier(4)

    def open_store() -> HookedStore:
        opened.append(threading.current_thread())
        if len(opened) == 1:
            raise InvalidRequest("COIN_HTS_S3_BUCKET is missing")
        return bucket

    def remove(exporter: TaskExporter) -> int:
        ready.wait(30)
        return exporter.remove("t")

    exporter = TaskExporter(open_store)
    assert opened == []
    with pytest.raises(InvalidRequest):
        exporter.remove("t")
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(remove, [exporter] * 4)] == [0] * 4
    assert len(opened) == 2, "after a failure it is tried again, and then no more"


# ---- the worker's exports


def test_completed_means_exported(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, found = queue.complete, []

    def completed(*args: Any) -> bool:
        found.append(keys_in(store))
        return complete(*args)

    monkeypatch.setattr(queue, "complete", completed)
    worker = TaskWorker(queue, tmp_path, export=TaskExporter(lambda: store))
    assert worker.run([claim_of("t")], "r") == {"t": "completed"}
    manifest = TaskStore(tmp_path).load("t").manifest
    assert found == [set(keys_of(manifest))]
    assert queue.results == {"t": (queue.paths["t"], manifest)}
    assert store.download("tasks/t/manifest.json", tmp_path / "copy").sha256
    assert type(manifest).model_validate_json((tmp_path / "copy").read_bytes()) == manifest
    assert strays_in(tmp_path) == set()


def test_an_export_holds_up_nobody(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, bucket: HookedStore, export: TaskExporter
) -> None:
    """While one is in the middle of its export, its heartbeats go on, and another is computed, exported and ended."""
    threads: set[threading.Thread] = set()

    def at(key: str) -> None:
        threads.add(threading.current_thread())
        if key.startswith("tasks/a/"):
            until(lambda: queue.states["b"] == "completed")
        if key == "tasks/a/manifest.json":
            heard = len(queue.reports.get("a", ()))
            until(lambda: len(queue.reports.get("a", ())) >= heard + 2)

    bucket.at = at
    claims = [claim_of("a", "KRW-ADA"), claim_of("b", "KRW-BTC")]
    looked = count()
    outcomes = TaskWorker(queue, tmp_path, threads=1, export=export).run(claims, "r", lambda: next(looked) < 0)
    assert outcomes == {"a": "completed", "b": "completed"}
    assert next(looked) > 3, "the calling thread looks after the tasks meanwhile"
    assert threading.current_thread() not in threads


def test_few_exports_run_at_once(
    tmp_path: Path,
    lake: CandleStore,
    queue: MemoryQueue,
    bucket: HookedStore,
    export: TaskExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(closer, "_EXPORTS_AT_ONCE", 2)
    inside: set[str] = set()
    seen: list[int] = []

    def at(key: str) -> None:
        name = key.split("/")[1]
        inside.add(name)
        until(lambda: len(inside) >= 2 or len(seen) > 2)
        seen.append(len(inside))
        if key.endswith("/manifest.json") and key.count("/") == 2:
            inside.discard(name)

    bucket.at = at
    claims = [claim_of(name, "KRW-BTC") for name in "abcde"]
    outcomes = TaskWorker(queue, tmp_path, export=export).run(claims, "r")
    assert set(outcomes.values()) == {"completed"}
    assert max(seen) == 2


def test_only_tasks_without_failures_are_exported(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, bucket: HookedStore, export: TaskExporter
) -> None:
    assert TaskWorker(queue, tmp_path, export=export).run([claim_of("t", "KRW-BTC", "KRW-NONE")], "r") == {
        "t": "failed"
    }
    assert keys_in(bucket) == set()
    assert queue.results == {"t": (str(tmp_path / "tasks" / "t"), TaskStore(tmp_path).load("t").manifest)}


@pytest.mark.parametrize("error", [TransientError("S3 is busy"), OSError("broken pipe"), fill_the_disk])
def test_a_transient_error_is_tried_again_without_computing(
    tmp_path: Path,
    lake: CandleStore,
    queue: MemoryQueue,
    bucket: HookedStore,
    export: TaskExporter,
    monkeypatch: pytest.MonkeyPatch,
    error: Any,
) -> None:
    def at(key: str) -> None:
        if key == "tasks/t/summary.parquet":
            if isinstance(error, Exception):
                raise error
            error()

    bucket.at = at
    worker = TaskWorker(queue, tmp_path, export=export)
    assert worker.run([claim_of("t")], "r") == {"t": "queued"}
    told, kind, _ = queue.failures["t"]
    assert (kind, told.__traceback__) == ("transient", None)
    manifest = TaskStore(tmp_path).load("t").manifest
    assert manifest.finished_symbols == SYMBOLS
    assert str(told) in str(manifest.error)
    assert queue.results["t"] == (str(tmp_path / "tasks" / "t"), manifest)
    assert strays_in(tmp_path) == set()
    bucket.at = lambda key: None
    monkeypatch.setattr(worker_module, "run_backtest", lambda *_, **__: 1 / 0)
    assert worker.run([claim_of("t", attempt=2)], "r") == {"t": "completed"}
    manifest = TaskStore(tmp_path).load("t").manifest
    assert (manifest.error, manifest.attempt) == (None, 2)
    assert keys_in(bucket) == set(keys_of(manifest))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [PermanentError("access is denied"), KeyError("a bug"), SystemExit("what?")])
def test_a_permanent_error_fails_the_task_and_the_manifest_says_so(
    tmp_path: Path,
    lake: CandleStore,
    queue: MemoryQueue,
    bucket: HookedStore,
    export: TaskExporter,
    error: BaseException,
) -> None:
    def at(key: str) -> None:
        raise error

    bucket.at = at
    assert TaskWorker(queue, tmp_path, export=export).run([claim_of("t")], "r") == {"t": "failed"}
    assert queue.failures["t"][1] == "permanent"
    manifest = TaskStore(tmp_path).load("t").manifest
    assert manifest.finished_symbols == SYMBOLS
    assert str(queue.failures["t"][0]) in str(manifest.error)
    assert strays_in(tmp_path) == set()


def test_no_old_manifest_stays_when_the_new_one_cannot_be_written(
    tmp_path: Path,
    lake: CandleStore,
    queue: MemoryQueue,
    bucket: HookedStore,
    export: TaskExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at(key: str) -> None:
        monkeypatch.setattr(task_directory, "write_table_atomically", fill_the_disk)
        raise PermanentError("access is denied")

    bucket.at = at
    assert TaskWorker(queue, tmp_path, export=export).run([claim_of("t")], "r") == {"t": "failed"}
    assert str(queue.failures["t"][0]) == "access is denied"
    assert queue.results == {"t": None}
    assert "t/manifest.json" not in paths_in(tmp_path)


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("end", ["cancel", "timeout", "lost", "stopped"])
def test_an_end_that_is_asked_for_during_the_export_wins(
    tmp_path: Path,
    lake: CandleStore,
    queue: MemoryQueue,
    bucket: HookedStore,
    export: TaskExporter,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    hangs: bool,
) -> None:
    """Also when the store does not answer until the task has ended."""
    asked, go = threading.Event(), threading.Event()
    signals = {"cancel": Signal.CANCEL, "timeout": Signal.TIMEOUT, "lost": Signal.LOST}
    uploads: list[str] = []
    threads: list[threading.Thread] = []

    def at(key: str) -> None:
        uploads.append(key)
        if len(uploads) == 7:
            threads.append(threading.current_thread())
            queue.asked |= {"t": signals[end]} if end in signals else {}
            asked.set()
            assert go.wait(30)

    heard = reporter.Job.end

    def ended(self: Any, reason: Any) -> None:
        heard(self, reason)
        go.set()

    bucket.at = at
    if hangs:
        monkeypatch.setattr(reporter, "_EXPORT_GRACE_SECONDS", 0.2)
        monkeypatch.setattr(closer, "_REMOVAL_SECONDS", 0.1)
    else:
        monkeypatch.setattr(reporter.Job, "end", ended)
    worker = TaskWorker(queue, tmp_path, export=export)
    outcomes = worker.run([claim_of("t")], "r", lambda: end == "stopped" and asked.is_set())
    assert threads[0].is_alive() or not hangs
    go.set()
    threads[0].join(30)
    assert len(uploads) == 7, "no further file is begun"
    if end == "cancel":
        assert outcomes == {"t": "cancelled"}
        assert (paths_in(tmp_path), keys_in(bucket)) == (set(), set())
    elif end == "lost":
        assert outcomes == {"t": "lost"}
        assert keys_in(bucket) == set(uploads), "they are the next attempt's"
        assert strays_in(tmp_path) == {"t/.attempt"}
    else:
        assert outcomes == {"t": "failed" if end == "timeout" else "queued"}
        manifest = TaskStore(tmp_path).load("t").manifest
        assert manifest.finished_symbols == SYMBOLS
        assert manifest.error == (
            "TimeoutError: not finished within 3600 s" if end == "timeout" else "the worker was stopped"
        )
        assert queue.results["t"] == (str(tmp_path / "tasks" / "t"), manifest)
        assert keys_in(bucket) == set(uploads)
        assert strays_in(tmp_path) == set()


def test_an_export_in_time_is_in_time(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, bucket: HookedStore, export: TaskExporter
) -> None:
    """The timeout comes with the last file: what is all done is completed."""

    def at(key: str) -> None:
        if key == "tasks/t/manifest.json":
            queue.asked["t"] = Signal.TIMEOUT
            said = len(queue.reports.get("t", ()))
            until(lambda: len(queue.reports.get("t", ())) >= said + 2)

    bucket.at = at
    assert TaskWorker(queue, tmp_path, export=export).run([claim_of("t")], "r") == {"t": "completed"}
    assert TaskStore(tmp_path).load("t").manifest.error is None
    assert strays_in(tmp_path) == set()


@pytest.mark.parametrize("failing", [False, True])
def test_a_cancel_after_the_export_takes_it_back(
    tmp_path: Path,
    lake: CandleStore,
    queue: MemoryQueue,
    bucket: HookedStore,
    export: TaskExporter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failing: bool,
) -> None:
    complete = queue.complete

    def cancelled_before(*args: Any) -> bool:
        queue.asked["t"] = Signal.CANCEL
        return complete(*args)

    def delete(key: str) -> None:
        raise TransientError("the store is away")

    monkeypatch.setattr(queue, "complete", cancelled_before)
    if failing:
        monkeypatch.setattr(bucket, "delete", delete)
    assert TaskWorker(queue, tmp_path, export=export).run([claim_of("t")], "r") == {"t": "cancelled"}
    assert paths_in(tmp_path) == set()
    assert bool(keys_in(bucket)) == failing
    assert ("exported of task t cannot be removed: the store is away" in caplog.text) == failing


def test_a_cancel_takes_back_what_an_earlier_attempt_exported(
    tmp_path: Path,
    lake: CandleStore,
    queue: MemoryQueue,
    bucket: HookedStore,
    export: TaskExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export(*finished(tmp_path), lambda: False)
    queue.attempts["t"], queue.asked["t"] = 2, Signal.CANCEL
    monkeypatch.setattr(Slow, "at", staticmethod(lambda bar: until(lambda: queue.reports.get("t"))))
    claim = claim_of("t", params={"every": 9}, attempt=2)
    assert TaskWorker(queue, tmp_path, export=export).run([claim], "r") == {"t": "cancelled"}
    assert (paths_in(tmp_path), keys_in(bucket)) == (set(), set())


def test_the_real_queue_and_a_real_server(
    tmp_path: Path, lake: CandleStore, database: Database, swift: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One completes, one has no bucket to go to; both are in the result index with their manifests."""
    from coin_hts_pipelines.storage import S3Store

    store = S3Store(swift.admin, swift.new_bucket(), "exports")
    nowhere = S3Store(swift.admin, "no-such-bucket")
    queue = TaskQueue(database)
    request = claim_of("t").request
    for bucket, state in ((store, "completed"), (nowhere, "failed")):
        task = queue.submit(request)
        worker = TaskWorker(queue, tmp_path, export=TaskExporter(lambda bucket=bucket: bucket))
        assert worker.run(queue.claim(run_key=f"key-{state}"), "run") == {task.id: state}
        manifest = TaskStore(tmp_path).load(task.id).manifest
        row = ResultIndex(database).get(task.id)
        assert (row.task, row.status, row.error) == (task.id, state, manifest.error)
        assert row.result_digest == manifest.result_digest
        assert Path(row.path) == Path(queue.get(task.id).path or "") == tmp_path / "tasks" / task.id
        assert keys_in(store) >= (set(keys_of(manifest)) if state == "completed" else set())
    assert "no-such-bucket" in str(queue.get(task.id).error)
    assert len(keys_in(store)) == len(manifest.files) + 1
    expected = run_backtest(lake.load("KRW-BTC", "1D"), request.backtest)
    symbol = task_directory.symbol_manifest(tmp_path / "tasks" / task.id / "KRW-BTC")
    assert symbol.result_digest == expected.result_digest
