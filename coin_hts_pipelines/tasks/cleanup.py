"""Clean-up: removes what finished tasks left, once it is old enough (docs/tasks.md). Not here: when it runs (ring 3).

Directory, partition, then index row and mark go in this order, and each step does nothing where it was done before:
whatever a crash leaves, the next clean-up finds the task without its mark and goes on.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from coin_hts_pipelines.catalog.database import Database
from coin_hts_pipelines.catalog.models import ResultRow, TaskRow
from coin_hts_pipelines.errors import CoinHtsError, InvalidRequest, PermanentError
from coin_hts_pipelines.results.task_store import TaskStore
from coin_hts_pipelines.tasks.task import State

_DAY_SECONDS = 86_400
_LOCKS = ".locks"
_CLOCK = sa.func.clock_timestamp()


@dataclass(frozen=True)
class CleanedTask:
    """A task whose files, partition and index row are gone, and the bytes of its files."""

    id: str
    state: State
    bytes: int


@dataclass(frozen=True)
class CleanupReport:
    """What a clean-up removed, or would remove (`dry_run`).

    `kept` counts finished tasks that are too young, have the `keep` flag, or share a run with one that is not finished.
    `problems` says by task id why it could not be removed; `unknown` are names in the tasks folder that belong to no
    task: they are left alone.
    """

    dry_run: bool
    removed: tuple[CleanedTask, ...]
    kept: int
    problems: Mapping[str, str]
    unknown: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of all removed tasks."""
        return sum(task.bytes for task in self.removed)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "total_bytes": self.total_bytes}


def clean_up(
    database: Database,
    store: TaskStore,
    *,
    completed_days: float,
    failed_days: float,
    forget_partitions: Callable[[Sequence[str]], None],
    dry_run: bool = False,
) -> CleanupReport:
    """Remove what finished tasks left: directory, partition and index row; their own rows stay, with `cleaned_at`.

    A task that cannot be removed does not stop the others. Two clean-ups at once share the work.

    Parameters
    ----------
    database
        The catalog; ages are by its clock.
    store
        Where the directories are; nothing outside its folder is touched.
    completed_days, failed_days
        Days since its end after which a completed, or a failed, task goes; a cancelled one goes at once.
    forget_partitions
        Removes the partitions of task ids; ones that are gone are no error.
    dry_run
        Change nothing, only report.

    Raises
    ------
    InvalidRequest
        If a number of days is negative or not a number.
    PermanentError
        If the folder of the tasks, or that of its locks, is a link or a file.
    TransientError
        If Postgres cannot be reached.
    """
    for name, days in (("completed_days", completed_days), ("failed_days", failed_days)):
        if not days >= 0:  # so that NaN is refused too
            raise InvalidRequest(f"{name} = {days} is not accepted; expected a number of days from 0")
    names = _names_in(store.root)
    # What Postgres takes as text; no other name is a task's.
    printable = [name for name in names if name.isprintable()]
    with database.session() as session:
        found = session.execute(_finished(completed_days, failed_days, printable)).all()
        known = {*session.scalars(sa.select(TaskRow.id).where(TaskRow.id.in_(printable)))}
    removed: list[CleanedTask] = []
    problems: dict[str, str] = {}
    for task_id, state in ((one.id, one.state) for one in found if one.due):
        try:
            if dry_run:
                size, changed = _size(store, task_id), True
            else:
                size = store.remove(task_id)
                forget_partitions([task_id])
                changed = _mark(database, task_id)
        except Exception as error:  # whatever it is, it must not keep the others
            problems[task_id] = str(error) if isinstance(error, CoinHtsError) else f"{type(error).__name__}: {error}"
        else:
            if size or changed:  # otherwise another clean-up was faster
                removed.append(CleanedTask(task_id, state, size))
    unknown = tuple(name if name.isprintable() else ascii(name) for name in names if name not in known)
    return CleanupReport(dry_run, tuple(removed), sum(not one.due for one in found), problems, unknown)


def _finished(completed_days: float, failed_days: float, names: Sequence[str]) -> sa.Executable:
    """Finished tasks that are not cleaned up, and whether they are due, the oldest first.

    Also due is a cleaned one of which there is something again: a worker or reconciler woke up too late.
    """
    days = sa.case((TaskRow.state == "completed", completed_days), else_=failed_days)
    old = sa.extract("epoch", _CLOCK - TaskRow.finished_at) > days * _DAY_SECONDS
    # A flag that is neither true nor false keeps, too.
    flagged = sa.func.coalesce(TaskRow.request["keep"].astext, "false") != "false"
    # A run finds its tasks by a range of partitions, so that none may go before the last of them has ended.
    other = aliased(TaskRow)
    busy = sa.select(other.run_key).where(other.claimed_at.is_not(None), other.finished_at.is_(None))
    held = TaskRow.run_key.is_not(None) & TaskRow.run_key.in_(busy)
    cleaned = TaskRow.cleaned_at.is_not(None)
    due = cleaned | (~flagged & ~held & ((TaskRow.state == "cancelled") | old))
    again = TaskRow.id.in_(names) | sa.exists().where(ResultRow.id == TaskRow.id)
    return (
        sa.select(TaskRow.id, TaskRow.state, due.label("due"))
        .where(TaskRow.finished_at.is_not(None), ~cleaned | again)
        .order_by(TaskRow.finished_at, TaskRow.id)
    )


def _mark(database: Database, task_id: str) -> bool:
    """Remove the index row and mark the task as cleaned up; False when both were done before."""
    unmarked = (TaskRow.id == task_id) & TaskRow.finished_at.is_not(None) & TaskRow.cleaned_at.is_(None)
    delete = sa.delete(ResultRow).where(ResultRow.id == task_id).returning(ResultRow.id)
    mark = sa.update(TaskRow).where(unmarked).values(cleaned_at=_CLOCK).returning(TaskRow.id)
    with database.session() as session:
        changed = [session.scalar(one, execution_options={"synchronize_session": False}) for one in (delete, mark)]
    return any(changed)


def _names_in(root: Path) -> list[str]:
    """Everything in the folder of the tasks but the locks, sorted."""
    for place in (root, root / _LOCKS):
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise PermanentError(f"{place} is a link or a file; the clean-up follows none, and needs a directory there")
    return sorted(path.name for path in root.iterdir() if path.name != _LOCKS) if root.exists() else []


def _size(store: TaskStore, task_id: str) -> int:
    """Bytes `TaskStore.remove` would remove; raises as it does."""
    folder = store.folder(task_id)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise PermanentError(f"{folder} is not a directory of a task but a link or a file; move it away")
    found = [path.lstat() for path in folder.rglob("*")]
    return sum(one.st_size for one in found if not stat.S_ISDIR(one.st_mode))
