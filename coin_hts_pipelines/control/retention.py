"""Retention on an instance: rows of Dagster's old runs, then everything else that is old, by the settings.

`instance.delete_run` would forget the materializations a run made, so that automation makes them all again, and takes a
transaction a run. Here an event stays as long as it is the latest of its kind for its partition, and its run stays with
it (start, end, steps and errors): the UI links to it, and whether a partition failed is read from the run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dagster import DagsterInstance
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.clock import now
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.control.tasks import TASKS_PARTITIONS
from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.operations import retention
from coin_hts_pipelines.operations.retention import Removed, TableSize, table_sizes
from coin_hts_pipelines.results import ResultStore
from coin_hts_pipelines.settings import Settings, get_settings
from coin_hts_pipelines.storage import ObjectStore

BATCH = 500
KINDS_OF_ROWS = ("runs", "events", "event tags", "check evaluations", "backfills")
# What a partition's page, automation and `get_latest_storage_id_by_partition` look at; a planned one without what
# followed is how a failed partition is known.
_KINDS = ("ASSET_MATERIALIZATION", "ASSET_OBSERVATION", "ASSET_MATERIALIZATION_PLANNED")
_FRAME = (
    *("PIPELINE_START", "PIPELINE_SUCCESS", "PIPELINE_FAILURE", "PIPELINE_CANCELED"),
    *("STEP_START", "STEP_SUCCESS", "STEP_FAILURE"),
)
_FOREVER_DAYS = 36_500

# A run of a backfill that goes on is read by it. `before` is compared with the end of the run.
_DUE = """
FROM dagster.runs r
WHERE status = ANY(:final) AND coalesce(to_timestamp(end_time), update_timestamp AT TIME ZONE 'UTC') < :before
  AND NOT EXISTS (SELECT FROM dagster.bulk_actions b WHERE b.key = r.backfill_id AND b.status <> ALL(:ended))
"""
# The id of a task is never used again: once its partition is removed, nothing is kept of it.
_LATEST = """
e.asset_key IS NOT NULL AND e.dagster_event_type = ANY(:kinds)
AND NOT EXISTS (
  SELECT FROM dagster.event_logs n
  WHERE n.asset_key = e.asset_key AND n.dagster_event_type = e.dagster_event_type
    AND n.partition = e.partition AND n.id > e.id)
AND (e.partition IS NOT NULL OR NOT EXISTS (
  SELECT FROM dagster.event_logs n
  WHERE n.asset_key = e.asset_key AND n.dagster_event_type = e.dagster_event_type
    AND n.partition IS NULL AND n.id > e.id))
AND (e.asset_key <> '["backtest_task"]' OR EXISTS (
  SELECT FROM dagster.dynamic_partitions p WHERE p.partitions_def_name = :tasks AND p.partition = e.partition))
"""
_LOCK = "SELECT run_id FROM dagster.runs WHERE run_id = ANY(:runs) AND status = ANY(:final) FOR UPDATE SKIP LOCKED"
_LATEST_CHECKS = "SELECT max(id) FROM dagster.asset_check_executions GROUP BY asset_key, check_name, partition"
_KEPT = f"""
SELECT run_id, id FROM dagster.event_logs e WHERE run_id = ANY(:runs) AND {_LATEST}
UNION ALL
SELECT run_id, evaluation_event_storage_id FROM dagster.asset_check_executions
WHERE run_id = ANY(:runs) AND id = ANY(:checks)
"""  # noqa: S608 - of constants
_EVENTS = """
DELETE FROM dagster.event_logs e
WHERE run_id = ANY(:runs)
  AND NOT EXISTS (SELECT FROM unnest(CAST(:kept AS bigint[])) AS k(id) WHERE k.id = e.id)
  AND NOT (run_id = ANY(:staying) AND coalesce(dagster_event_type, '') = ANY(:frame))
RETURNING id, asset_key
"""
_RUNLESS = f"""
SELECT id FROM dagster.event_logs e
WHERE run_id = '' AND timestamp < CAST(:before AS timestamptz) AT TIME ZONE 'UTC'
  AND dagster_event_type = ANY(:kinds) AND NOT ({_LATEST})
"""  # noqa: S608
_TAGS = "DELETE FROM dagster.asset_event_tags WHERE event_id = ANY(:events)"
_CHECKS = "DELETE FROM dagster.asset_check_executions WHERE run_id = ANY(:runs) AND id <> ALL(:checks)"
_RUNS = "DELETE FROM dagster.runs WHERE run_id = ANY(:runs) AND run_id <> ALL(:staying)"
_BACKFILLS = """
DELETE FROM dagster.bulk_actions b
WHERE status = ANY(:ended) AND timestamp < CAST(:before AS timestamptz) AT TIME ZONE 'UTC'
  AND NOT EXISTS (SELECT FROM dagster.runs r WHERE r.backfill_id = b.key)
RETURNING key
"""
_BACKFILL_TAGS = "DELETE FROM dagster.backfill_tags WHERE backfill_id = ANY(:keys)"
_VACUUM = (
    "dagster.event_logs, dagster.asset_event_tags, dagster.asset_check_executions, dagster.runs, dagster.run_tags, "
    "dagster.bulk_actions, dagster.backfill_tags, catalog.tasks"
)


@dataclass(frozen=True)
class PrunedRuns:
    """Rows that were removed by kind; `kept` old runs stay because a latest event is theirs."""

    rows: Mapping[str, int]
    kept: int


@dataclass(frozen=True)
class PruneReport:
    """What was removed by kind, or would be (`dry_run`); `problems` says by kind what could not be."""

    dry_run: bool
    removed: Mapping[str, Removed]
    kept_runs: int
    problems: Mapping[str, str]
    before: Sequence[TableSize]
    after: Sequence[TableSize]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        later = {one.name: one for one in self.after}
        tables = [
            {
                "name": one.name,
                "bytes_before": one.bytes,
                "bytes_after": later[one.name].bytes,
                "rows_before": one.rows,
                "rows_after": later[one.name].rows,
            }
            for one in self.before
            if one.name in later
        ]
        removed = {kind: {"count": one.count, "bytes": one.bytes} for kind, one in self.removed.items()}
        return {
            "dry_run": self.dry_run,
            "removed": removed,
            "kept_runs": self.kept_runs,
            "problems": dict(self.problems),
            "tables": tables,
            "seconds": round(self.seconds, 3),
        }


def prune_runs(
    instance: DagsterInstance, database: Database, before: datetime, *, dry_run: bool = False, batch: int = BATCH
) -> PrunedRuns:
    """Remove rows of runs that ended before a moment, of events without a run, and of backfills that are over.

    Each batch is a transaction, so that whoever is killed leaves whole runs; the next call goes on. Two at once share
    the work, and runs that are not finished are never touched.

    Parameters
    ----------
    instance
        Whose pool slots are freed of the removed runs.
    database
        The Postgres of that instance.
    before
        Aware moment.
    dry_run
        Do the same in one transaction that is taken back at the end.
    batch
        Runs a transaction.
    """
    values = _values(before)
    rows: Counter[str] = Counter()
    kept = 0
    with database.engine.connect() as connection:

        def run(statement: str, **more: object) -> sa.CursorResult[Any]:
            return connection.execute(sa.text(statement), {**values, **more})

        def settle() -> None:
            if not dry_run:
                connection.commit()

        due = [*run(f"SELECT run_id {_DUE} ORDER BY id").scalars()]
        checks = [*run(_LATEST_CHECKS).scalars()]
        settle()
        for at in range(0, len(due), batch):
            runs = [*run(_LOCK, runs=due[at : at + batch]).scalars()]
            latest = run(_KEPT, runs=runs, checks=checks).all()
            staying = {row.run_id for row in latest}
            gone = run(_EVENTS, runs=runs, kept=[row.id for row in latest], staying=[*staying], frame=[*_FRAME]).all()
            rows["events"] += len(gone)
            rows["event tags"] += run(_TAGS, events=[row.id for row in gone if row.asset_key]).rowcount
            rows["check evaluations"] += run(_CHECKS, runs=runs, checks=checks).rowcount
            rows["runs"] += run(_RUNS, runs=runs, staying=[*staying]).rowcount
            kept += len(staying)
            settle()
        events = [*run(_RUNLESS).scalars()]
        for at in range(0, len(events), 20 * batch):
            chosen = events[at : at + 20 * batch]
            rows["event tags"] += run(_TAGS, events=chosen).rowcount
            rows["events"] += run("DELETE FROM dagster.event_logs WHERE id = ANY(:events)", events=chosen).rowcount
            settle()
        keys = [*run(_BACKFILLS).scalars()]
        run(_BACKFILL_TAGS, keys=keys)
        rows["backfills"] = len(keys)
        settle()
    if not dry_run:
        storage = instance.event_log_storage
        for run_id in storage.get_concurrency_run_ids() & {*due}:
            storage.free_concurrency_slots_for_run(run_id)
    return PrunedRuns({kind: rows[kind] for kind in KINDS_OF_ROWS}, kept)


def _values(before: datetime) -> dict[str, Any]:
    return {
        "before": before,
        "ended": [status.value for status in BULK_ACTION_TERMINAL_STATUSES],
        "final": [status.value for status in FINISHED_STATUSES],
        "kinds": [*_KINDS],
        "tasks": TASKS_PARTITIONS,
    }


def _needed_folders(database: Database, storage: Path, before: datetime) -> set[str]:
    """Runs with a folder that did not end before a moment."""
    due = f"SELECT run_id {_DUE}"
    query = f"SELECT run_id FROM dagster.runs WHERE run_id = ANY(:names) AND run_id NOT IN ({due})"  # noqa: S608
    with database.session() as session:
        return {*session.scalars(sa.text(query), {**_values(before), "names": [*retention.run_folders(storage)]})}


def _vacuum(database: Database) -> None:
    """Make the room of removed rows usable again; plain, so that nobody waits for it."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"VACUUM (ANALYZE) {_VACUUM}"))


def prune(instance: DagsterInstance, open_store: Callable[[], ObjectStore], *, dry_run: bool = False) -> PruneReport:
    """Remove everything that the settings call old; what cannot be removed does not stop the rest.

    Parameters
    ----------
    instance
        Dagster's.
    open_store
        Opens the store of the exports.
    dry_run
        Change nothing, only report.

    Raises
    ------
    TransientError
        If Postgres cannot be reached.
    """
    settings, database, at = get_settings(), open_database(), now()
    started, sizes = time.perf_counter(), table_sizes(database)
    storage, store = dagster_storage(settings), cache(open_store)
    runs = days_before(at, settings.retention_run_days)
    exports = days_before(at, settings.retention_export_days)
    tasks = days_before(at, settings.retention_task_days)
    removed: dict[str, Removed] = {}
    problems: dict[str, str] = {}
    kept = 0

    def prune_rows() -> Removed:
        nonlocal kept
        done = prune_runs(instance, database, runs, dry_run=dry_run)
        kept = done.kept
        removed.update((kind, Removed(count)) for kind, count in done.rows.items())
        return removed["runs"]

    def prune_folders() -> Removed:
        needed = _needed_folders(database, storage, runs)
        return retention.prune_run_folders(storage, needed, at, dry_run=dry_run)

    def prune_presets() -> Removed:
        results = ResultStore(settings.root)
        return retention.prune_preset_exports(database, results, store(), exports, dry_run=dry_run)

    inbox = days_before(at, retention.INBOX_DAYS)
    ticks = days_before(at, retention.TICK_LOG_DAYS)
    # Files after their rows: a folder whose run is gone is found again, a run without its folder looks broken.
    steps: dict[str, Callable[[], Removed]] = {
        "runs": prune_rows,
        "run folders": prune_folders,
        "tick logs": lambda: retention.prune_tick_logs(storage, ticks, dry_run=dry_run),
        "preset exports": prune_presets,
        "task exports": lambda: retention.prune_task_exports(database, store(), exports, dry_run=dry_run),
        "task rows": lambda: retention.prune_task_rows(database, store(), tasks, dry_run=dry_run),
        "alerts": lambda: retention.prune_alerts(database, runs, dry_run=dry_run),
        "inbox files": lambda: retention.prune_inbox(settings.root, inbox, dry_run=dry_run),
    }
    for kind, step in steps.items():
        try:
            removed[kind] = step()
            if removed[kind].problems:
                problems[kind] = "; ".join(removed[kind].problems)
        except Exception as error:  # whatever it is, it must not keep the others
            problems[kind] = _why(error)
    if not dry_run and any(removed.get(kind, Removed()).count for kind in (*KINDS_OF_ROWS, "task rows")):
        try:
            _vacuum(database)
        except Exception as error:  # nor the report
            problems["vacuum"] = _why(error)
    seconds = time.perf_counter() - started
    return PruneReport(dry_run, removed, kept, problems, sizes, table_sizes(database), seconds)


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, CoinHtsError) else f"{type(error).__name__}: {error}"


def dagster_storage(settings: Settings) -> Path:
    """Folder of Dagster's files on this instance (COIN_HTS_DAGSTER_STORAGE)."""
    return settings.root / "dagster"


def days_before(moment: datetime, days: float) -> datetime:
    """Moment so many days before another, but no further back than a century."""
    return moment - timedelta(days=min(days, _FOREVER_DAYS))
