"""Results of tasks in the object store, verified: `tasks/{task_id}/` holds what the task's directory holds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from coin_hts_pipelines.errors import Cancelled, IntegrityError
from coin_hts_pipelines.results.manifest import MANIFEST
from coin_hts_pipelines.results.task_manifest import TaskManifest
from coin_hts_pipelines.storage import ObjectStore


class TaskExporter:
    """Puts results of tasks into an object store, and takes them back; for several threads at once.

    Parameters
    ----------
    open_store
        Opens the store when it is first needed, once.
    """

    def __init__(self, open_store: Callable[[], ObjectStore]) -> None:
        self._open_store = open_store
        self._opened: ObjectStore | None = None
        self._opening = threading.Lock()

    def __call__(self, folder: Path, manifest: TaskManifest, cancelled: Callable[[], bool]) -> None:
        """Upload every file of a finished task, the manifest last: whoever reads it finds all it names.

        Parameters
        ----------
        folder
            Directory of the task.
        manifest
            What is in it; files that are not what it says are not uploaded.
        cancelled
            Asked before each file; true ends the work.

        Raises
        ------
        Cancelled
            If `cancelled()` became true.
        IntegrityError
            If a file is not what the manifest says.
        TransientError, PermanentError
            As the store's `upload`.
        """
        store = self._store()
        manifest.check_files(folder)
        about = {
            "strategy": manifest.strategy,
            "inputs-digest": manifest.inputs_digest,
            "result-digest": manifest.result_digest,
        }
        last = f"{_prefix(manifest.id)}{MANIFEST}"
        # That of an earlier attempt does not describe the files that come now.
        if store.head(last) is not None:
            store.delete(last)
        for entry in manifest.files:
            _stop_if(cancelled, manifest.id)
            stored = store.upload(folder / entry.name, f"{_prefix(manifest.id)}{entry.name}", metadata=about).info
            if stored.sha256 != entry.sha256:
                raise IntegrityError(f"{folder / entry.name} was changed while it was exported; try again")
        _stop_if(cancelled, manifest.id)
        store.upload(folder / MANIFEST, last, metadata=about)

    def remove(self, task_id: str) -> int:
        """Remove what was exported of a task, its manifest first, and return how many objects; 0 if there are none.

        Raises
        ------
        InvalidRequest
            For an id that no key can have.
        TransientError, PermanentError
            As the store's `list` and `delete`.
        """
        store, prefix = self._store(), _prefix(task_id)
        keys = sorted((found.key for found in store.list(prefix)), key=lambda key: (key != f"{prefix}{MANIFEST}", key))
        for key in keys:
            store.delete(key)
        return len(keys)

    def _store(self) -> ObjectStore:
        with self._opening:
            if self._opened is None:
                self._opened = self._open_store()
            return self._opened


def _prefix(task_id: str) -> str:
    return f"tasks/{task_id}/"


def _stop_if(cancelled: Callable[[], bool], task_id: str) -> None:
    if cancelled():
        raise Cancelled(f"the export of task {task_id} was cancelled")
