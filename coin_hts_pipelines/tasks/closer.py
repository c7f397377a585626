"""How tasks end: what becomes of their files and their export, and what the queue is told.

All but the export happens in the thread that looks after the tasks, so that one thread at a time closes a task; the
object store has threads of its own, because it may be slow or hang. Not here: the computation (`worker`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from coin_hts_pipelines.errors import Cancelled, CoinHtsError, PermanentError, TransientError
from coin_hts_pipelines.parallel import interrupts_later
from coin_hts_pipelines.results.task_store import Superseded, TaskManifest, TaskStore
from coin_hts_pipelines.tasks.reporter import Failure, Job, Reason, Reporter, Tell

# A client of S3 keeps ten connections.
_EXPORTS_AT_ONCE = 8
_POLL_SECONDS = 0.1
_REMOVAL_SECONDS = 5.0
_NAMED = 10

_log = logging.getLogger(__name__)


class Export(Protocol):
    """Puts the result of a task elsewhere too (`export.TaskExporter`)."""

    def __call__(self, folder: Path, manifest: TaskManifest, cancelled: Callable[[], bool]) -> None:
        """Export what the manifest names; raise Cancelled soon after `cancelled()` became true."""

    def remove(self, task_id: str) -> object:
        """Take back what was exported of a task."""


class Closer:
    """Brings tasks to their end."""

    def __init__(self, store: TaskStore, reporter: Reporter, export: Export | None) -> None:
        self.store = store
        self.reporter = reporter
        self.export = export
        self._slots = threading.Semaphore(_EXPORTS_AT_ONCE)

    def settle(self, jobs: Sequence[Job]) -> None:
        """Bring jobs that nobody works on any more to their end, and have the queue told."""
        for job in jobs:
            if job.is_idle():
                reason = job.reason
                tell = self._last_word(job, reason)
                if tell is not None:
                    job.say(tell, reason)
                    self.reporter.wake.set()

    def _last_word(self, job: Job, reason: Reason | None) -> Tell | None:
        """What the queue is to be told; None while the object store is at work."""
        claim, path = job.claim, str(self.store.folder(job.claim.task_id))
        try:
            if reason == "cancel":
                if not self._is_taken_back(job):
                    return None
                _remove(job)
                return lambda queue: "cancelled" if job.cancel_noted or queue.cancelled(claim) else "lost"
            if reason != "lost":
                if not job.closed and not self._close(job, reason):
                    return None
                _let_go(job)
        except Superseded:
            reason = "lost"
        if reason == "lost":
            return lambda _: "lost"
        failure, manifest = job.verdict, job.manifest
        if failure is None:
            return lambda queue: "completed" if queue.complete(claim, path, manifest) else None
        result = (path, manifest) if manifest is not None else None
        return lambda queue: queue.fail(claim, failure.error, failure.kind, failure.traceback, result) or "lost"

    def _close(self, job: Job, reason: Reason | None) -> bool:
        """Write summary and manifest, and export them; False when the export has only begun."""
        failure = _failure(job, reason)
        if failure is None and self.export is not None:
            if job.exporter is None and reason is None:
                failure = _write(job, None)
                if job.manifest is not None:
                    self._start(job, partial(self._put, job.manifest), self.export)
                    return False
            else:
                failure = _export_failure(job, reason)
        if failure is not None or job.manifest is None:
            failure = _write(job, failure)
        job.verdict, job.closed = failure, True
        return True

    def _is_taken_back(self, job: Job) -> bool:
        """Whether the object store holds nothing of a cancelled job, or was waited for long enough."""
        untouched = job.exporter is None and job.claim.attempt == 1
        if self.export is None or job.taken_back or untouched or job.is_overdue():
            return True
        self._start(job, self._take_back, self.export)
        return False

    def wait_for_removal(self, jobs: Sequence[Job]) -> None:
        """Give what was exported of cancelled tasks a last moment to be removed."""
        deadline = time.monotonic() + _REMOVAL_SECONDS
        for job in jobs:
            if job.exporter is not None and job.reason == "cancel":
                job.exporter.join(max(0.0, deadline - time.monotonic()))

    # ---- threads of the export

    def _start(self, job: Job, work: Callable[[Job, Export], None], export: Export) -> None:
        with interrupts_later():
            job.exporter = threading.Thread(target=work, args=(job, export), name="task_export", daemon=True)
            job.exporter.start()

    def _put(self, manifest: TaskManifest, job: Job, export: Export) -> None:
        def cancelled() -> bool:
            return job.reason is not None

        try:
            while not self._slots.acquire(timeout=_POLL_SECONDS):
                if cancelled():
                    raise Cancelled("the export was cancelled before it began")
            try:
                export(self.store.folder(job.claim.task_id), manifest, cancelled)
                job.exported = True
            finally:
                self._slots.release()
        except Exception as error:
            job.export_error = error
        if job.reason == "cancel":
            self._take_back(job, export)
        self.reporter.heard.set()

    def _take_back(self, job: Job, export: Export) -> None:
        try:
            export.remove(job.claim.task_id)
        except Exception as error:
            _log.warning("what was exported of task %s cannot be removed: %s", job.claim.task_id, error)
        job.taken_back = True
        self.reporter.heard.set()


def _remove(job: Job) -> None:
    """Remove the files of a cancelled job; what cannot be removed now is left to the clean-up."""
    try:
        if job.directory is not None:
            job.directory.remove()
    except Superseded:
        raise
    except (CoinHtsError, OSError) as error:
        _log.warning("the files of task %s cannot be removed: %s", job.claim.task_id, error)


def _write(job: Job, failure: Failure | None) -> Failure | None:
    """Write summary and manifest, and return what the queue is to be told went wrong."""
    job.manifest = None
    if job.directory is None:
        return failure
    request = job.claim.request
    try:
        job.manifest = job.directory.finish(
            request.to_dict(),
            request.symbols,
            started=job.began,
            failed={symbol: one.message for symbol, one in sorted(job.failures.items())},
            error=failure.message if failure else None,
            let_go=False,
        )
    except Superseded:
        raise
    except Exception as error:
        _log.warning("the manifest of task %s cannot be written: %s", job.claim.task_id, error)
        return failure or Failure.of(error)
    return failure


def _let_go(job: Job) -> None:
    try:
        if job.directory is not None and job.manifest is not None:
            job.directory.let_go()
    except Superseded:
        raise
    except (CoinHtsError, OSError) as error:
        _log.warning("the directory of task %s cannot be let go: %s", job.claim.task_id, error)


def _failure(job: Job, reason: Reason | None) -> Failure | None:
    if job.broken is not None:
        return job.broken
    if not job.worked_off:
        return _unfinished(job, reason)
    if not job.failures:
        return None
    symbols, failures = job.claim.request.symbols, sorted(job.failures.items())
    if len(symbols) == 1:
        return failures[0][1]
    named = "; ".join(f"{symbol}: {one.message}" for symbol, one in failures[:_NAMED])
    more = f"; and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    text = f"{len(failures)} of {len(symbols)} symbols failed: {named}{more}"
    traces = "\n".join(f"{symbol}:\n{one.traceback}" for symbol, one in failures[:_NAMED])
    # One that trying again does not help is enough: the task cannot be completed.
    if any(one.kind == "permanent" for _, one in failures):
        return Failure(PermanentError(text), "permanent", traces)
    return Failure(TransientError(text), "transient", traces)


def _unfinished(job: Job, reason: Reason | None) -> Failure:
    if reason == "timeout":
        return Failure(TimeoutError(f"not finished within {job.claim.timeout_seconds:g} s"), "timeout")
    return Failure(TransientError("the worker was stopped"), "transient")


def _export_failure(job: Job, reason: Reason | None) -> Failure | None:
    """What is wrong with a task whose symbols are done, but perhaps not exported."""
    if job.exported:
        return None
    if reason is not None:
        return _unfinished(job, reason)
    return Failure.of(job.export_error or RuntimeError("the export ended without an answer"))
