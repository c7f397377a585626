"""Results of tasks on disk: one sub-directory a finished symbol, published as it is finished, and the manifest last.

DATA_ROOT/tasks/{task_id}/{symbol}/       tables and manifest.json, as of a result or of a sweep
DATA_ROOT/tasks/{task_id}/summary.parquet
DATA_ROOT/tasks/{task_id}/manifest.json   only when the task has ended
DATA_ROOT/tasks/{task_id}/.attempt        only while it has not: whose directory it is (`task_directory`)
DATA_ROOT/tasks/.locks/                   locks, a fixed number of them
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from coin_hts_pipelines.results.tables import read_table
from coin_hts_pipelines.results.task_directory import (
    ID_FORM,
    SUMMARY,
    Superseded,
    TaskDirectory,
    classed,
    directory_lock,
    remove_path,
    task_folder,
)
from coin_hts_pipelines.results.task_manifest import TaskManifest

__all__ = ["FOLDER", "StoredTask", "Superseded", "TaskDirectory", "TaskManifest", "TaskStore"]

FOLDER = "tasks"


@dataclass(frozen=True)
class StoredTask:
    """A task read back; `summary` is None when no symbol was finished."""

    folder: Path
    manifest: TaskManifest
    summary: pd.DataFrame | None


class TaskStore:
    """Task directories under one DATA_ROOT."""

    def __init__(self, data_root: Path) -> None:
        self.root = data_root / FOLDER

    def folder(self, task_id: str) -> Path:
        """Directory of a task, whether it exists or not.

        Raises
        ------
        InvalidRequest
            If the id could name anything but a directory in `DATA_ROOT/tasks`.
        """
        return task_folder(self.root, task_id)

    def ids(self) -> list[str]:
        """Names of all task directories, sorted; links and files are none."""
        try:
            with os.scandir(self.root) as entries:
                found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return sorted(filter(ID_FORM.fullmatch, found))

    def begin(self, task_id: str, attempt: int) -> TaskDirectory:
        """Take the directory of a task over for an attempt; raises as `TaskDirectory.begin`."""
        directory = TaskDirectory(self.root, task_id, attempt)
        directory.begin()
        return directory

    def manifest(self, task_id: str) -> TaskManifest:
        """Manifest of a task that has ended.

        Raises
        ------
        InvalidRequest
            For an id that is none.
        IntegrityError
            If there is none, or it cannot be read.
        """
        return TaskManifest.load(self.folder(task_id))

    def load(self, task_id: str) -> StoredTask:
        """Read manifest and summary of a task that has ended, all its files checked.

        Raises
        ------
        InvalidRequest
            For an id that is none.
        IntegrityError
            If a file is missing or is not what was written.
        """
        folder, manifest = self.folder(task_id), self.manifest(task_id)
        manifest.check_files(folder)
        has_summary = any(entry.name == SUMMARY for entry in manifest.files)
        return StoredTask(folder, manifest, read_table(folder / SUMMARY) if has_summary else None)

    def remove(self, task_id: str) -> int:
        """Remove the directory of a task, whoever has it, and return its bytes; 0 when there is none.

        The manifest goes first, so that nobody reads half a result; what a crash leaves the next call removes. Links
        in it are removed, never followed.

        Raises
        ------
        InvalidRequest
            For an id that is none.
        PermanentError, TransientError
            If the directory is a link or a file, or cannot be removed.
        """
        with classed(self.folder(task_id)), directory_lock(self.root, task_id) as folder:
            return remove_path(folder)
