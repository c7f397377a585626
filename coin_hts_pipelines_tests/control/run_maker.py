"""Runs made through the instance's API, as if they had been executed and had ended some days ago."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
import sqlalchemy as sa
from dagster._core.definitions.partitions.utils import get_tags_from_multi_partition_key
from dagster._core.events import AssetMaterializationPlannedData, StepMaterializationData
from dagster._core.execution.plan.objects import StepSuccessData
from dagster._core.utils import make_new_run_id

from coin_hts_pipelines.catalog import Database

Kind = dg.DagsterEventType
JOB, STEP = "made_up", "work"
_DIMENSIONS = {"candles": ("symbol", "year"), "indicators": ("symbol", "year"), "rankings": None, "backtest_task": None}


class RunMaker:
    """Makes runs of an instance and sets them back in time."""

    def __init__(self, instance: dg.DagsterInstance, database: Database) -> None:
        self.instance, self.database = instance, database

    def report(self, run_id: str, kind: Kind, data: object = None, step: str | None = STEP) -> None:
        """Report an event of a run."""
        event = dg.DagsterEvent(kind.value, JOB, step_key=step, event_specific_data=data)  # type: ignore[arg-type]
        self.instance.report_dagster_event(event, run_id)

    def begin(self, tags: Mapping[str, str] | None = None) -> str:
        """A run that is at work."""
        run_id = make_new_run_id()
        self.instance.add_run(dg.DagsterRun(JOB, run_id, tags={"made": "up", **(tags or {})}))
        self.report(run_id, Kind.PIPELINE_START, step=None)
        self.report(run_id, Kind.STEP_START)
        return run_id

    def plan(self, run_id: str, asset: str, key: str) -> None:
        """Say that a run means to make a partition."""
        self.report(
            run_id, Kind.ASSET_MATERIALIZATION_PLANNED, AssetMaterializationPlannedData(dg.AssetKey(asset), key)
        )

    def record(self, run_id: str, asset: str, key: str | None) -> None:
        """Say that a run made a partition."""
        event = StepMaterializationData(materialization(asset, key, {"made_by": run_id}))
        self.report(run_id, Kind.ASSET_MATERIALIZATION, event)

    def noise(self, run_id: str, count: int) -> None:
        """Log messages."""
        for number in range(count):
            self.instance.report_engine_event(
                f"message {number}", run_id=run_id, job_name=JOB, step_key=STEP, cls=RunMaker
            )

    def end(self, run_id: str, kind: Kind = Kind.PIPELINE_SUCCESS, days: float = 40) -> str:
        """End a run, so many days ago."""
        if kind is Kind.PIPELINE_SUCCESS:
            self.report(run_id, Kind.STEP_SUCCESS, StepSuccessData(duration_ms=1.0))
        self.report(run_id, kind, step=None)
        change = "UPDATE dagster.runs SET end_time = extract(epoch FROM now()) - 86400 * :days WHERE run_id = :run"
        with self.database.session() as session:
            session.execute(sa.text(change), {"days": days, "run": run_id})
        return run_id

    def made(self, *pairs: tuple[str, str], days: float = 40, tags: Mapping[str, str] | None = None) -> str:
        """A run that made partitions of assets."""
        run_id = self.begin(tags)
        for pair in pairs:
            self.plan(run_id, *pair)
        for pair in pairs:
            self.record(run_id, *pair)
        return self.end(run_id, days=days)

    def failed(self, *pairs: tuple[str, str], days: float = 40) -> str:
        """A run that made nothing of what it meant to."""
        run_id = self.begin()
        for pair in pairs:
            self.plan(run_id, *pair)
        return self.end(run_id, Kind.PIPELINE_FAILURE, days)

    def runs(self) -> set[str]:
        """Ids of all runs."""
        return set(self.instance.get_run_ids())

    def count(self, table: str, where: str = "true") -> int:
        """Rows of a table of Dagster."""
        with self.database.session() as session:
            return int(session.scalar(sa.text(f"SELECT count(*) FROM dagster.{table} WHERE {where}")) or 0)

    def execute(self, statement: str, **values: object) -> Sequence[sa.Row[tuple[object, ...]]]:
        """Run a statement on the database."""
        with self.database.session() as session:
            found = session.execute(sa.text(statement), values)
            return found.all() if found.returns_rows else []


def materialization(asset: str, key: str | None, metadata: Mapping[str, str]) -> dg.AssetMaterialization:
    """Event of a partition, as `work_on` records it."""
    dimensions = _DIMENSIONS.get(asset.rpartition("_")[0] or asset, ("preset", "symbol"))
    if asset == "backtest_task" or key is None or dimensions is None:
        return dg.AssetMaterialization(asset, partition=key, metadata=dict(metadata))
    multi = dg.MultiPartitionKey(dict(zip(dimensions, key.split("|"), strict=True)))
    tags = get_tags_from_multi_partition_key(multi)
    return dg.AssetMaterialization(asset, partition=multi, tags=tags, metadata=dict(metadata))


def pairs_of(asset: str, keys: Iterable[str]) -> list[tuple[str, str]]:
    """Partitions of an asset."""
    return [(asset, key) for key in keys]
