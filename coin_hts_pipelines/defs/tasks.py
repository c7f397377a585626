"""Asynchronous tasks: the asset that works off what the queue has claimed for its run (docs/tasks.md).

One partition is one task. No retry policy and no run retries: the queue alone decides what is tried again.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import dagster as dg
from dagster._core.storage.tags import RUN_KEY_TAG

from coin_hts_pipelines.control.pages import task_url
from coin_hts_pipelines.control.tasks import TASKS_PARTITIONS, open_queue
from coin_hts_pipelines.defs.partitioned_work import requested_keys
from coin_hts_pipelines.defs.resources import ExportStoreResource, LakeResource
from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.reports import equity_chart_svg, svg_markdown
from coin_hts_pipelines.results.tables import read_table
from coin_hts_pipelines.results.task_store import StoredTask, TaskStore
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines.tasks.export import TaskExporter
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.reporter import Outcome
from coin_hts_pipelines.tasks.task import Claim, Task
from coin_hts_pipelines.tasks.worker import TaskWorker

ASSET = "backtest_task"
# Of a task of one symbol, under the names the backtest assets have.
_KEY_FIGURES = {
    **{f"study_{name}": f"study_{name}" for name in ("samples", "win_rate", "avg_return")},
    **{name: f"portfolio_{name}" for name in ("trades", "total_return", "max_drawdown", "sharpe")},
}
# Progress of a long task is an event at each quarter.
_STEPS = 4


@cache
def task_partitions() -> dg.DynamicPartitionsDefinition:
    """Every task that was given to a run and not cancelled or cleaned up since."""
    return dg.DynamicPartitionsDefinition(name=TASKS_PARTITIONS)


def task_metadata(stored: StoredTask, *, chart: bool) -> dict[str, Any]:
    """What the UI shows of a finished task."""
    manifest = stored.manifest
    lone = manifest.symbols[0] if len(manifest.symbols) == 1 else None
    figures = {name: value for name, value in manifest.figures.items() if not _is_undefined(value)}
    key_figures = {shown: figures[name] for name, shown in _KEY_FIGURES.items() if name in figures}
    equity = stored.folder / lone / "equity.parquet" if lone else None
    return {
        **({"name": manifest.request["name"]} if manifest.request["name"] else {}),
        "dagster/row_count": manifest.bars,
        "totals": dg.MetadataValue.json(manifest.totals),
        **key_figures,
        **({"figures": dg.MetadataValue.json(figures)} if figures else {}),
        "candles": manifest.candle_source,
        "synthetic": manifest.synthetic,
        "seconds": manifest.duration_seconds,
        "inputs_digest": manifest.inputs_digest,
        "result_digest": manifest.result_digest,
        "path": dg.MetadataValue.path(str(stored.folder)),
        **(
            {"equity": dg.MetadataValue.md(svg_markdown(equity_chart_svg(read_table(equity))))}
            if chart and equity and equity.exists()
            else {}
        ),
        "request": dg.MetadataValue.json(manifest.request),
    }


def _is_undefined(value: object) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


class TaskEvents:
    """Tells Dagster what becomes of the tasks of a run: a materialization of each good one, else observations."""

    def __init__(self, context: dg.AssetExecutionContext, queue: TaskQueue, store: TaskStore, claims: list[Claim]):
        self.context = context
        self.queue = queue
        self.store = store
        self.chart = len(claims) == 1
        self.quarters = dict.fromkeys((claim.task_id for claim in claims), 0)
        self.problems: dict[str, str] = {}

    def __call__(self, task_id: str, progress: float, outcome: Outcome | None) -> None:
        """Follow a task, as `TaskWorker.run` asks for it."""
        if outcome is None:
            quarter = int(progress * _STEPS)
            if self.quarters[task_id] < quarter < _STEPS:
                self.quarters[task_id] = quarter
                self._observe(task_id, "running", {"progress": progress})
        elif outcome == "completed":
            metadata = task_metadata(self._stored(task_id), chart=self.chart)
            self.context.log_event(
                dg.AssetMaterialization(
                    ASSET, partition=task_id, metadata={**metadata, "page": dg.MetadataValue.url(task_url(task_id))}
                )
            )
        elif outcome == "lost":
            self.context.log.warning(f"task {task_id} was not this run's any more")
        else:
            self._ended(self.queue.get(task_id), outcome)

    def _stored(self, task_id: str) -> StoredTask:
        return StoredTask(self.store.folder(task_id), self.store.manifest(task_id), None)

    def _ended(self, task: Task, outcome: Outcome) -> None:
        if outcome == "cancelled":
            self._observe(task.id, outcome, {"reason": task.cancel_reason or ""})
            return
        error = f"{task.error_class}: {task.error}"
        more = "" if outcome == "failed" else f" (to be tried again, attempt {task.attempts} of {task.max_attempts})"
        self.problems[task.id] = f"{task.error}{more}"
        self._observe(task.id, outcome, {"error": error, "kind": task.error_kind, "attempts": task.attempts})

    def _observe(self, task_id: str, state: str, more: Mapping[str, Any]) -> None:
        self.context.log_event(dg.AssetObservation(ASSET, partition=task_id, metadata={"state": state, **more}))


def backtest_task_asset() -> dg.AssetsDefinition:
    """Asset of all tasks."""

    @dg.multi_asset(
        name=ASSET,
        specs=[
            dg.AssetSpec(
                ASSET,
                partitions_def=task_partitions(),
                # Each task is recorded when it ends; the others of its run may be cancelled or fail.
                skippable=True,
                group_name="tasks",
                kinds={"parquet", "numba", "postgres"},
                owners=["team:research"],
                description="Asynchronous requests (`coin-hts task submit`, or the job submit_backtest_task): one "
                "backtest or sweep over symbols each. The sensor dispatch_tasks starts the runs; a task cannot be "
                "materialized by hand, `coin-hts task retry` submits it again.",
            )
        ],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def backtest_task(
        context: dg.AssetExecutionContext, lake: LakeResource, export_store: ExportStoreResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        run_key = context.run.tags.get(RUN_KEY_TAG)
        queue, store = open_queue(), TaskStore(lake.root)
        if run_key is None:
            raise dg.Failure(_by_hand(queue, requested_keys(context)), allow_retries=False)
        claims = queue.claims_of(run_key)
        events = TaskEvents(context, queue, store, claims)

        def interrupted() -> None:
            """A person cancelled the run: so are its tasks. A machine that shuts down is no such reason."""
            run = context.instance.get_run_by_id(context.run_id)
            if run is not None and run.status is dg.DagsterRunStatus.CANCELING:
                for claim in claims:
                    _cancel(queue, claim.task_id, f"run {context.run_id} was cancelled")

        settings = get_settings()
        export = TaskExporter(export_store.open) if settings.exports_tasks else None
        worker = TaskWorker(queue, lake.root, threads=settings.worker_threads, export=export)
        worker.run(claims, context.run_id, follow=events, on_interrupt=interrupted)
        if events.problems:
            text = "; ".join(f"{task_id}: {reason}" for task_id, reason in events.problems.items())
            raise dg.Failure(f"{len(events.problems)} of {len(claims)} tasks failed: {text}", allow_retries=False)
        yield from ()

    return backtest_task


def _cancel(queue: TaskQueue, task_id: str, reason: str) -> None:
    try:
        queue.cancel(task_id, reason)
    except CoinHtsError:
        return  # it has ended meanwhile, or the reconciler will see to it


def _by_hand(queue: TaskQueue, keys: list[str]) -> str:
    states = {task.id: task.state for task in queue.list(ids=keys, limit=None)}
    named = ", ".join(f"{key} is {states.get(key, 'unknown')}" for key in keys)
    return (
        f"tasks are started by the sensor dispatch_tasks, not by hand: {named}; "
        "submit one again with `coin-hts task retry`"
    )
