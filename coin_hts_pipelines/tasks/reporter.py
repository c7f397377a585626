"""What a worker says to the queue, and hears from it: one thread speaks for all tasks of a process.

So a slow or unreachable database holds up no computation. Not here: the computation (`worker`).
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from coin_hts_pipelines.errors import CoinHtsError, IntegrityError, PermanentError, TransientError
from coin_hts_pipelines.results.task_store import TaskDirectory, TaskManifest
from coin_hts_pipelines.tasks.task import Claim, ErrorKind, Signal, State

# A task is reported at most four times a second, and at least once.
_PAUSE_SECONDS = 0.25
_SILENCE_SECONDS = 0.5
# How long an export is waited for that does not hear that its task has ended.
_EXPORT_GRACE_SECONDS = 3.0

# Why a task ends before its symbols are done; a later one counts more.
Reason = Literal["stopped", "timeout", "cancel", "lost"]
_WEIGHT: dict[Reason | None, int] = {None: 0, "stopped": 1, "timeout": 2, "cancel": 3, "lost": 4}
_REASON: dict[Signal, Reason] = {Signal.CANCEL: "cancel", Signal.TIMEOUT: "timeout", Signal.LOST: "lost"}

# The state the queue gave a task at the end, or that it was not this worker's any more.
Outcome = State | Literal["lost"]

_log = logging.getLogger(__name__)


class Queue(Protocol):
    """What a worker needs of the queue; every call raises TransientError while the database cannot be reached."""

    def start(self, claim: Claim, run_id: str, worker: str) -> bool:
        """Begin to work; False when the claim is void."""

    def report(self, claim: Claim, progress: float, symbols_done: int) -> Signal:
        """Say how far a task is, and hear whether to go on."""

    def complete(self, claim: Claim, path: str, manifest: TaskManifest | None = None) -> bool:
        """End a task well, with its result; False when a cancel was asked for or the claim is void."""

    def fail(
        self,
        claim: Claim,
        error: Exception,
        kind: ErrorKind,
        traceback: str | None = None,
        result: tuple[str, TaskManifest] | None = None,
    ) -> State | None:
        """End an attempt that went wrong; the state the task has now, None when the claim is void."""

    def cancelled(self, claim: Claim) -> bool:
        """End a task whose cancel was asked for; False when the claim is void."""


# Says a last word to the queue; None when the queue refuses it.
Tell = Callable[[Queue], Outcome | None]


@dataclass(frozen=True)
class Failure:
    """What went wrong, in the words and the class the queue is told; holds no frames, and so no arrays."""

    error: Exception
    kind: ErrorKind
    traceback: str | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Class an error: whether trying again helps is known by its type (docs/tasks.md)."""
        again = isinstance(error, TransientError | IntegrityError) or (
            isinstance(error, OSError) and not isinstance(error, PermanentError)
        )
        text = "".join(traceback.format_exception(error))
        error.__cause__ = error.__context__ = None
        return cls(error.with_traceback(None), "transient" if again else "permanent", text)

    @property
    def message(self) -> str:
        """One sentence; of an error that is not the package's own with its class."""
        own = isinstance(self.error, CoinHtsError)
        text = str(self.error) if own else f"{type(self.error).__name__}: {self.error}"
        # It goes into the manifest and the result index: JSON takes no half of a surrogate pair, Postgres no NUL.
        return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


class Job:
    """One task in the hands of this process."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.began = datetime.now(UTC)
        self.directory: TaskDirectory | None = None
        self.failures: dict[str, Failure] = {}
        self.broken: Failure | None = None
        self.reason: Reason | None = None
        self.tell: Tell | None = None
        self.outcome: Outcome | None = None
        self.manifest: TaskManifest | None = None
        # Files are brought to their end once, whatever is asked for afterwards; a cancel alone undoes that.
        self.closed = False
        self.verdict: Failure | None = None
        self.cancel_noted = False
        # The export has a thread of its own, and so has what takes it back after a cancel.
        self.exporter: threading.Thread | None = None
        self.exported = False
        self.export_error: Exception | None = None
        self.taken_back = False
        self.symbols_done = 0
        self._shares = dict.fromkeys(claim.request.symbols, 0.0)
        self._left = len(self._shares)
        self._at_work = 0
        self._lock = threading.Lock()
        self._spoken = time.monotonic()
        self._reason_since = 0.0
        self._last_progress = 0.0

    @property
    def progress(self) -> float:
        """Share of the work that is done, 0..1."""
        return sum(self._shares.values()) / len(self._shares)

    @property
    def worked_off(self) -> bool:
        """Whether every symbol was worked to its end, well or not."""
        return self._left == 0

    def end(self, reason: Reason) -> None:
        """Ask for an end before the symbols are done; a word to the queue that was not taken is taken back."""
        with self._lock:
            if self.outcome is None and _WEIGHT[reason] > _WEIGHT[self.reason]:
                if self.reason is None:
                    self._reason_since = time.monotonic()
                self.reason = reason
                self.tell = None

    def say(self, tell: Tell, reason: Reason | None) -> None:
        """Have the queue told, unless the job has got another reason to end meanwhile."""
        with self._lock:
            if self.reason == reason:
                self.tell = tell

    def enter(self) -> bool:
        """Begin to work on a symbol, unless the task has ended."""
        with self._lock:
            if self.reason is not None or self.broken is not None:
                return False
            self._at_work += 1
            return True

    def leave(self) -> None:
        """Be done with what `enter` allowed."""
        with self._lock:
            self._at_work -= 1

    def advance(self, symbol: str, share: float) -> None:
        """Note how much of a symbol is done."""
        self._shares[symbol] = max(self._shares[symbol], share)

    def worked(self, symbol: str, failure: Failure | None = None) -> None:
        """Note that a symbol is finished or has failed."""
        with self._lock:
            self._shares[symbol] = 1.0
            self._left -= 1
            if failure is None:
                self.symbols_done += 1
            else:
                self.failures[symbol] = failure

    def is_idle(self) -> bool:
        """Whether nothing of the task is worked on any more and the queue is still to be told."""
        with self._lock:
            over = self.worked_off or self.reason is not None or self.broken is not None
            busy = self._at_work > 0 or (self.is_exporting() and not self.is_overdue())
            return over and not busy and self.tell is None and self.outcome is None

    def is_exporting(self) -> bool:
        """Whether the object store is at work for the task."""
        return self.exporter is not None and self.exporter.is_alive()

    def is_overdue(self) -> bool:
        """Whether the end that was asked for has waited long enough for the object store."""
        return self.reason is not None and time.monotonic() - self._reason_since > _EXPORT_GRACE_SECONDS

    def is_due(self) -> bool:
        """Whether the queue should hear of the task again."""
        silent = time.monotonic() - self._spoken
        return silent >= (_PAUSE_SECONDS if self.progress != self._last_progress else _SILENCE_SECONDS)

    def report(self, queue: Queue) -> Signal:
        """Tell the queue how far the task is."""
        progress, self._spoken = self.progress, time.monotonic()
        signal = queue.report(self.claim, progress, self.symbols_done)
        self._last_progress = progress
        return signal


class Reporter(threading.Thread):
    """Speaks for the jobs it is given until it is told to stop."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(name="task_reporter", daemon=True)
        self.queue = queue
        self.jobs: list[Job] = []
        self.wake = threading.Event()
        self.heard = threading.Event()
        self._ended = threading.Event()

    def stop(self) -> None:
        """End the thread; a call to the database that hangs is not waited for."""
        self._ended.set()
        self.wake.set()
        if self.is_alive():
            self.join(1)

    def run(self) -> None:
        """Speak for every job in turn."""
        while not self._ended.is_set():
            self.wake.wait(_PAUSE_SECONDS)
            self.wake.clear()
            for job in list(self.jobs):
                try:
                    self._speak_for(job)
                except TransientError as error:
                    # The others would hear the same, each after a time of its own.
                    _log.warning("task %s cannot be reported now: %s", job.claim.task_id, error)
                    break
                except Exception:
                    # Nothing more can be said of it: the reconciler will find it silent.
                    _log.exception("task %s cannot be reported", job.claim.task_id)
                    job.end("lost")

    def _speak_for(self, job: Job) -> None:
        if job.outcome is not None:
            return
        tell = job.tell
        if tell is None:
            # One whose cancel is noted has ended for the queue, which would call it lost while its files are removed.
            if job.is_due() and not job.cancel_noted:
                self._hear(job)
            return
        outcome = tell(self.queue)
        if outcome is None:
            self._hear(job)
        elif outcome == "cancelled" and job.reason != "cancel":
            # The queue was told of a failure and knew of a cancel: the files have to go.
            job.cancel_noted = True
            job.end("cancel")
        else:
            job.outcome = outcome
        self.heard.set()

    def _hear(self, job: Job) -> None:
        signal = job.report(self.queue)
        if signal is not Signal.GO_ON:
            job.end(_REASON[signal])
