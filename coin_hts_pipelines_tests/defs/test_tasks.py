"""The asset of the tasks, as a run of the instance: what it records of each task, and how the run ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import RUN_KEY_TAG

from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.catalog import Database, ResultIndex
from coin_hts_pipelines.control.tasks import TASK_JOB, TASKS_PARTITIONS, open_queue
from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START
from coin_hts_pipelines.defs.task_submission import submit_backtest_task
from coin_hts_pipelines.defs.tasks import TaskEvents
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.results.task_store import TaskStore
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.task import TaskRequest
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.defs.helpers import forget_settings
from coin_hts_pipelines_tests.tasks.task_maker import request

__all__ = ["_migrated", "database", "new_database"]

SYMBOLS = ("KRW-BTC", "KRW-ETH")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.fixture
def queue(home: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> TaskQueue:
    """The queue of a project with candles."""
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", database.url.render_as_string(hide_password=False))
    forget_settings()
    candles = CandleStore(get_settings().root)
    for seed, symbol in enumerate(SYMBOLS):
        candles.merge(symbol, "1D", random_walk(200, seed), source="sample")
    return open_queue()


def run_claimed(instance: dg.DagsterInstance, queue: TaskQueue, key: str = "key-1") -> dg.ExecuteInProcessResult:
    """Claim all that waits, and run the job of the tasks as the dispatch sensor has it."""
    ids = [claim.task_id for claim in queue.claim(run_key=key)]
    instance.add_dynamic_partitions(TASKS_PARTITIONS, ids)
    job = build_defs().resolve_job_def(TASK_JOB)
    tags = {RUN_KEY_TAG: key, RANGE_START: ids[0], RANGE_END: ids[-1]}
    return job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)


def events(instance: dg.DagsterInstance, run_id: str, kind: dg.DagsterEventType) -> dict[str, Mapping[str, Any]]:
    """Metadata by partition of the materializations or observations of a run, those of progress left out."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in instance.get_records_for_run(run_id, of_type=kind).records:
        one = record.asset_materialization or record.event_log_entry.asset_observation
        assert one is not None
        metadata = {name: value.value for name, value in one.metadata.items()}
        # A slow machine sees a task on its way, a quick one does not.
        if metadata.get("state") != "running":
            assert str(one.partition) not in found
            found[str(one.partition)] = metadata
    return found


MATERIALIZED = dg.DagsterEventType.ASSET_MATERIALIZATION
OBSERVED = dg.DagsterEventType.ASSET_OBSERVATION


def test_a_task_is_a_partition_with_its_request_figures_digests_and_links(
    queue: TaskQueue, instance: dg.DagsterInstance
) -> None:
    task_id = queue.submit(request("KRW-BTC")).id
    done = run_claimed(instance, queue)
    assert done.success
    task, stored = queue.get(task_id), TaskStore(get_settings().root).load(task_id)
    assert (task.state, task.run_id, task.path) == ("completed", done.run_id, str(stored.folder))
    shown = events(instance, done.run_id, MATERIALIZED)
    assert list(shown) == [task_id]
    metadata = shown[task_id]
    assert metadata["request"] == request("KRW-BTC").to_dict()
    assert metadata["dagster/row_count"] == 200
    assert metadata["result_digest"] == stored.manifest.result_digest
    assert metadata["figures"].items() <= stored.manifest.figures.items()
    assert metadata["portfolio_total_return"] == stored.manifest.figures["total_return"]
    assert metadata["study_samples"] == stored.manifest.figures["study_samples"]
    assert metadata["path"] == str(stored.folder)
    assert metadata["page"] == f"http://127.0.0.1:3000/assets/backtest_task?view=partitions&partition={task_id}"
    assert metadata["synthetic"] is True
    assert metadata["equity"].startswith("![")
    (row,) = ResultIndex(queue.database).list()
    assert (row.id, row.task, row.status, row.result_digest) == (
        task_id,
        task_id,
        "completed",
        stored.manifest.result_digest,
    )


def test_each_task_of_a_run_ends_for_itself(queue: TaskQueue, instance: dg.DagsterInstance) -> None:
    good = queue.submit(request(*SYMBOLS)).id
    bad = queue.submit(request("KRW-NONE")).id
    cancelled = queue.submit(request("KRW-ETH")).id
    swept = queue.submit(
        TaskRequest(BacktestRequest("volume_long_candle"), ("KRW-BTC",), grid={"vol_ma_window": [10, 20]})
    ).id
    claims = {claim.task_id: claim for claim in queue.claim(run_key="key-1")}
    instance.add_dynamic_partitions(TASKS_PARTITIONS, list(claims))
    queue.cancel(cancelled, "not needed")
    tags = {RUN_KEY_TAG: "key-1", RANGE_START: good, RANGE_END: swept}
    done = build_defs().resolve_job_def(TASK_JOB).execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    assert not done.success
    states = {task_id: queue.get(task_id).state for task_id in claims}
    assert states == {good: "completed", bad: "failed", cancelled: "cancelled", swept: "completed"}
    assert set(events(instance, done.run_id, MATERIALIZED)) == {good, swept}
    observed = events(instance, done.run_id, OBSERVED)
    assert list(observed) == [bad]
    assert observed[bad]["state"] == "failed"
    assert "no candles of KRW-NONE" in observed[bad]["error"]
    (failure,) = [event.step_failure_data for event in done.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert f"1 of 3 tasks failed: {bad}: no candles of KRW-NONE" in str(failure.user_failure_data.description)
    assert instance.get_run_by_id(done.run_id).status is dg.DagsterRunStatus.FAILURE  # type: ignore[union-attr]


def test_a_run_whose_tasks_were_all_cancelled_has_nothing_to_do(queue: TaskQueue, instance: dg.DagsterInstance) -> None:
    task_id = queue.submit(request("KRW-BTC")).id
    queue.claim(run_key="key-1")
    queue.cancel(task_id, "not needed")
    instance.add_dynamic_partitions(TASKS_PARTITIONS, [task_id])
    job = build_defs().resolve_job_def(TASK_JOB)
    tags = {RUN_KEY_TAG: "key-1", RANGE_START: task_id, RANGE_END: task_id}
    done = job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    assert done.success
    assert events(instance, done.run_id, MATERIALIZED) == {}
    assert not TaskStore(get_settings().root).folder(task_id).exists()


@pytest.mark.parametrize("state", ["queued", "completed", "unknown"])
def test_a_task_is_not_materialized_by_hand(queue: TaskQueue, instance: dg.DagsterInstance, state: str) -> None:
    task_id = "by-hand" if state == "unknown" else queue.submit(request("KRW-BTC")).id
    if state == "completed":
        assert run_claimed(instance, queue).success
    instance.add_dynamic_partitions(TASKS_PARTITIONS, [task_id])
    job = build_defs().resolve_job_def(TASK_JOB)
    done = job.execute_in_process(instance=instance, partition_key=task_id, raise_on_error=False)
    assert not done.success
    (failure,) = [event.step_failure_data for event in done.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert f"{task_id} is {state}" in str(failure.user_failure_data.description)
    if state != "unknown":
        assert queue.get(task_id).state == state


@pytest.mark.parametrize(
    ("environment", "exported"), [({}, False), ({"COIN_HTS_EXPORT_DIR": "elsewhere"}, True)], ids=["default", "named"]
)
def test_a_result_is_exported_where_a_place_is_named(
    queue: TaskQueue,
    instance: dg.DagsterInstance,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    exported: bool,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget_settings()
    task_id = queue.submit(request("KRW-BTC")).id
    assert run_claimed(instance, queue).success
    folder = TaskStore(get_settings().root).folder(task_id)
    wanted = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    place = get_settings().exports / "tasks" / task_id
    assert place.exists() is exported
    if exported:
        assert place == home / "elsewhere" / "tasks" / task_id
        for name, content in wanted.items():
            assert (place / name).read_bytes() == content


# ---- the Launchpad


def launch(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return submit_backtest_task.execute_in_process(
        instance=instance,
        run_config={"ops": {"submit_task": {"config": config}}},
        resources={"lake": build_defs().resources["lake"]} if build_defs().resources else {},
        raise_on_error=False,
    )


def test_a_task_is_submitted_from_the_launchpad(queue: TaskQueue, instance: dg.DagsterInstance) -> None:
    done = launch(
        instance,
        strategy="volume_long_candle",
        symbols=["all"],
        params={"vol_ma_window": 12},
        more={"exits": {"stop_loss": 0.1}, "initial_cash": 5e6},
        start="2024-01-10",
        name="from the UI",
    )
    assert done.success
    task = queue.get(done.output_for_node("submit_task"))
    assert (task.state, task.name) == ("queued", "from the UI")
    assert task.request.symbols == SYMBOLS
    assert task.request.start == "2024-01-10"
    backtest = task.request.backtest
    assert (backtest.params["vol_ma_window"], backtest.exits.stop_loss, backtest.initial_cash) == (12, 0.1, 5e6)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"strategy": "nothing"}, "nothing"),
        ({"symbols": ["KRW-NONE"]}, "KRW-NONE"),
        ({"params": {"hold": 1}}, "hold"),
        ({"start": "2031-01-01"}, "no 1D candles"),
        ({"more": {"colour": "red"}}, "colour"),
    ],
)
def test_the_launchpad_refuses_what_the_command_line_refuses(
    queue: TaskQueue, instance: dg.DagsterInstance, config: dict[str, Any], said: str
) -> None:
    done = launch(instance, **config)
    assert not done.success
    (failure,) = [event.step_failure_data for event in done.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert said in str(failure.user_failure_data.description)
    assert queue.list() == []


# ---- progress


class Logged:
    """Stands for the context of the asset: keeps what is logged."""

    def __init__(self) -> None:
        self.events: list[dg.AssetObservation] = []

    def log_event(self, event: dg.AssetObservation) -> None:
        self.events.append(event)


def test_progress_is_an_event_at_each_quarter_and_the_end_is_none_of_them(queue: TaskQueue) -> None:
    task_id = queue.submit(request("KRW-BTC")).id
    context: Any = Logged()
    events = TaskEvents(context, queue, TaskStore(get_settings().root), queue.claim(run_key="key-1"))
    for progress in (0.0, 0.1, 0.26, 0.3, 0.49, 0.9, 0.95, 1.0):
        events(task_id, progress, None)
    seen = [(one.partition, one.metadata["state"].value, one.metadata["progress"].value) for one in context.events]
    assert seen == [(task_id, "running", 0.26), (task_id, "running", 0.9)]
