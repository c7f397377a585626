"""What is old is removed: exports, rows of tasks and alerts, files of inbox and runs. Not here: Dagster's tables.

Whatever belongs together goes in an order that leaves nothing half: a manifest before the files it names, files that
rows name before the rows, files of Dagster's runs after their rows. Interrupted anywhere, the next call goes on.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from coin_hts_pipelines.catalog.database import DAGSTER_SCHEMA, Database
from coin_hts_pipelines.catalog.models import SCHEMA, AlertRow, DeadLetterRow, PresetRow, ResultRow, TaskRow
from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.lake.inbox import FOLDER, IMPORTED, REJECTED
from coin_hts_pipelines.results import Manifest, ResultStore
from coin_hts_pipelines.results.manifest import MANIFEST
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.storage import ObjectInfo, ObjectStore
from coin_hts_pipelines.tasks.export import TaskExporter

INBOX_DAYS = 90
# Dagster keeps the ticks themselves as long (dagster.yaml).
TICK_LOG_DAYS = 90
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PRESETS, _TASKS = "backtests/", "tasks/"
# backtests/{timeframe}/{preset}/{symbol}
_PRESET_DEPTH = 3
# A folder is made after the row of its run, but a person may remove the row of a run at work.
_SETTLED = timedelta(days=1)


@dataclass(frozen=True)
class Removed:
    """What was removed of one kind, or would be: how many, their bytes where known, and what could not be."""

    count: int = 0
    bytes: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableSize:
    """A table with its indexes, and Postgres's estimate of its rows."""

    name: str
    bytes: int
    rows: int


@dataclass(frozen=True)
class FolderSize:
    """A folder, the bytes of the files below it and their number."""

    path: Path
    bytes: int
    files: int


def table_sizes(database: Database) -> tuple[TableSize, ...]:
    """Tables of Dagster and the catalog, the largest first."""
    query = sa.text(
        "SELECT n.nspname || '.' || c.relname, pg_total_relation_size(c.oid), pg_stat_get_live_tuples(c.oid) "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind = 'r' AND n.nspname = ANY(:schemas) ORDER BY 2 DESC, 1"
    )
    with database.session() as session:
        return tuple(TableSize(*row) for row in session.execute(query, {"schemas": [DAGSTER_SCHEMA, SCHEMA]}))


def folder_sizes(settings: Settings) -> tuple[FolderSize, ...]:
    """Folders of DATA_ROOT, and those of exports, backups and logs wherever they are, the largest first."""
    root = settings.root
    inside = [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()] if root.is_dir() else []
    others = (settings.exports, settings.backups, settings.logs)
    paths = {*inside, *(path for path in others if path.is_dir())}
    found = [FolderSize(path, *_measured(path)) for path in paths]
    return tuple(sorted(found, key=lambda one: (-one.bytes, one.path)))


def prune_preset_exports(
    database: Database, results: ResultStore, store: ObjectStore, before: datetime, *, dry_run: bool = False
) -> Removed:
    """Remove exports of presets that are no more, once all of an export is older than `before`.

    One whose preset this catalog never had a result of belongs to somebody else and stays. Of a preset that is there
    only old files go that its exported manifest does not name.

    Parameters
    ----------
    database
        The catalog: which presets there are, and which there were.
    results
        Current results here; a file that one of them has is not looked up in the store.
    store
        Where the exports are.
    before
        Aware moment.
    dry_run
        Change nothing, only count.

    Raises
    ------
    TransientError, PermanentError
        As the store's `list` and `delete`, and if Postgres cannot be reached.
    """
    with database.session() as session:
        there = {(row.timeframe, row.name) for row in session.scalars(sa.select(PresetRow))}
    doomed: list[ObjectInfo] = []
    problems: list[str] = []
    for folder, objects in _folders(store, _PRESETS).items():
        if folder.count("/") != _PRESET_DEPTH:
            continue  # not a key that we write
        _, timeframe, preset, symbol = folder.split("/")
        if (timeframe, preset) in there:
            try:
                doomed += _unnamed(store, results.current(timeframe, preset, symbol), folder, objects, before)
            except CoinHtsError as error:
                problems.append(str(error))
        elif _all_old(objects, before) and _was_ours(database, timeframe, preset):
            doomed += sorted(objects, key=lambda one: (not one.key.endswith(f"/{MANIFEST}"), one.key))
    for one in () if dry_run else doomed:
        store.delete(one.key)
    return Removed(len(doomed), sum(one.size for one in doomed), tuple(problems))


def prune_task_exports(database: Database, store: ObjectStore, before: datetime, *, dry_run: bool = False) -> Removed:
    """Remove exports older than `before` of tasks whose result the clean-up has removed.

    Raises
    ------
    TransientError, PermanentError
        As the store's `list` and `delete`, and if Postgres cannot be reached.
    """
    found = {folder.removeprefix(_TASKS): objects for folder, objects in _folders(store, _TASKS).items()}
    old = [task_id for task_id, objects in found.items() if _all_old(objects, before)]
    with database.session() as session:
        cleaned = sa.select(TaskRow.id).where(TaskRow.id.in_(old), TaskRow.cleaned_at.is_not(None)).order_by(TaskRow.id)
        task_ids = [*session.scalars(cleaned)]
    exporter = TaskExporter(lambda: store)
    for task_id in () if dry_run else task_ids:
        exporter.remove(task_id)
    sizes = [one.size for task_id in task_ids for one in found[task_id]]
    return Removed(len(sizes), sum(sizes))


def prune_task_rows(database: Database, store: ObjectStore, before: datetime, *, dry_run: bool = False) -> Removed:
    """Remove rows of tasks that ended before a moment and of which nothing is left: no files, export or dead letter.

    Raises
    ------
    TransientError, PermanentError
        As the store's `list`, and if Postgres cannot be reached.
    """
    exported = {folder.removeprefix(_TASKS) for folder in _folders(store, _TASKS)}
    due = sa.select(TaskRow.id).where(
        TaskRow.finished_at < before,
        TaskRow.cleaned_at.is_not(None),
        TaskRow.id.not_in(sa.select(DeadLetterRow.task_id)),
        ~sa.exists().where(ResultRow.id == TaskRow.id),
    )
    with database.session() as session:
        ids = sorted({*session.scalars(due.with_for_update(skip_locked=True))} - exported)
        if not dry_run:
            session.execute(sa.delete(TaskRow).where(TaskRow.id.in_(ids)).execution_options(synchronize_session=False))
    return Removed(len(ids))


def prune_alerts(database: Database, before: datetime, *, dry_run: bool = False) -> Removed:
    """Remove alerts that are over and that everybody was told before a moment; what lasts stays, however old."""
    due = sa.select(AlertRow.id).where(~AlertRow.lasts, AlertRow.handled_at < before)
    with database.session() as session:
        ids = list(session.scalars(due.with_for_update(skip_locked=True)))
        if not dry_run:
            gone = sa.delete(AlertRow).where(AlertRow.id.in_(ids))
            session.execute(gone, execution_options={"synchronize_session": False})
    return Removed(len(ids))


def prune_inbox(data_root: Path, before: datetime, *, dry_run: bool = False) -> Removed:
    """Remove files of the inbox that were imported or rejected before a moment; those that wait are left alone."""
    found = []
    for name in (IMPORTED, REJECTED):
        folder = data_root / FOLDER / name
        for path in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
            info = _info(path)
            # Moving a file changes its status only; it keeps the time its candles were written.
            if info and stat.S_ISREG(info.st_mode) and max(info.st_mtime, info.st_ctime) < before.timestamp():
                found.append(path)
    return _remove(found, dry_run)


def run_folders(storage: Path) -> dict[str, list[Path]]:
    """Folders of Dagster's runs: compute logs, and what an op without a store of its own put down."""
    found: dict[str, list[Path]] = defaultdict(list)
    for place in (storage, storage / "storage"):
        for path in place.iterdir() if place.is_dir() else ():
            if _RUN_ID.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                found[path.name].append(path)
    return found


def prune_run_folders(storage: Path, needed: Collection[str], now: datetime, *, dry_run: bool = False) -> Removed:
    """Remove the folders of all runs but the `needed`; one that was changed within a day is left for the next time."""
    unneeded = [path for run_id, paths in run_folders(storage).items() if run_id not in needed for path in paths]
    settled = (now - _SETTLED).timestamp()
    found = [path for path in unneeded if (info := _info(path)) and info.st_mtime < settled]
    return _remove(found, dry_run)


def prune_tick_logs(storage: Path, before: datetime, *, dry_run: bool = False) -> Removed:
    """Remove what sensors and schedules logged before a moment: `{repository}/{name}/{tick}.err` and the like."""
    found = [
        path
        for path in storage.glob("*/*/*")
        if path.suffix in (".out", ".err", ".complete")
        and not _RUN_ID.fullmatch(path.relative_to(storage).parts[0])
        and (info := _info(path))
        and stat.S_ISREG(info.st_mode)
        and info.st_mtime < before.timestamp()
    ]
    return _remove(found, dry_run)


def _info(path: Path) -> os.stat_result | None:
    """Of a file or folder itself; None if it is gone, for others remove here too."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _folders(store: ObjectStore, prefix: str) -> dict[str, list[ObjectInfo]]:
    """Objects by the folder of their key."""
    found: dict[str, list[ObjectInfo]] = defaultdict(list)
    for one in store.list(prefix):
        found[one.key.rpartition("/")[0]].append(one)
    return found


def _all_old(objects: Iterable[ObjectInfo], before: datetime) -> bool:
    return all(one.modified < before for one in objects)


def _was_ours(database: Database, timeframe: str, preset: str) -> bool:
    query = sa.select(ResultRow.id).where(ResultRow.timeframe == timeframe, ResultRow.preset == preset).limit(1)
    with database.session() as session:
        return session.scalar(query) is not None


def _unnamed(
    store: ObjectStore, current: Path | None, folder: str, objects: list[ObjectInfo], before: datetime
) -> list[ObjectInfo]:
    """Old objects of an export that neither the result here nor the manifest there names."""
    usual = {MANIFEST}
    if current is not None and (current / MANIFEST).is_file():
        usual |= {entry.name for entry in Manifest.load(current).files}
    odd = [one for one in objects if one.modified < before and one.key.removeprefix(f"{folder}/") not in usual]
    if not odd:
        return []
    if all(one.key != f"{folder}/{MANIFEST}" for one in objects):
        return []  # an export that was interrupted: the next one completes it
    with tempfile.TemporaryDirectory() as aside:
        store.download(f"{folder}/{MANIFEST}", Path(aside) / MANIFEST)
        named = {entry.name for entry in Manifest.load(Path(aside)).files}
    return [one for one in odd if one.key.removeprefix(f"{folder}/") not in named]


def _remove(paths: Iterable[Path], dry_run: bool) -> Removed:
    """Remove files and folders; one that cannot be removed does not stop the others."""
    count = size = 0
    problems = []
    for path in paths:
        try:
            folder = stat.S_ISDIR(path.lstat().st_mode)
            freed = _measured(path)[0] if folder else path.lstat().st_size
            if not dry_run:
                shutil.rmtree(path) if folder else path.unlink()
        except FileNotFoundError:
            continue  # somebody was faster
        except OSError as error:
            problems.append(f"{error.filename or path}: {error.strerror or error}")
        else:
            count, size = count + 1, size + freed
    return Removed(count, size, tuple(problems))


def _measured(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files below a folder, links not followed; what vanishes meanwhile counts nothing."""
    size = count = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                size += (Path(path) / name).lstat().st_size
                count += 1
            except OSError:
                continue
    return size, count
