"""The worker: computes the symbols of claimed tasks in parallel threads and brings each task to its end.

Several tasks share a process; each has its own progress, cancel, timeout and failure (docs/tasks.md). Not here: how a
task changes (`queue`), how its files are kept (`results.task_store`).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from coin_hts_pipelines.backtest import Sampling, SweepResult, overfitting_guards, run_backtest
from coin_hts_pipelines.backtest.combinations import sampled_combinations
from coin_hts_pipelines.backtest.digest import inputs_digest
from coin_hts_pipelines.backtest.sweep import sweep_combinations
from coin_hts_pipelines.errors import Cancelled, CoinHtsError, NoCandles, PermanentError, TransientError
from coin_hts_pipelines.lake import CandleStore, is_synthetic
from coin_hts_pipelines.lake.candle_files import UNKNOWN_SOURCE
from coin_hts_pipelines.market import Timeframe, validated_arrays
from coin_hts_pipelines.parallel import run_parallel
from coin_hts_pipelines.results.task_store import Superseded, TaskDirectory, TaskStore
from coin_hts_pipelines.tasks.reporter import Failure, Job, Outcome, Queue, Reason, Reporter, Tell
from coin_hts_pipelines.tasks.task import Claim, Signal

__all__ = ["Outcome", "Queue", "TaskWorker"]

# How long a process that is asked to end tries to say so of its tasks.
_LAST_WORDS_SECONDS = 10.0
_POLL_SECONDS = 0.1
_START_AGAIN_SECONDS = 0.5
_NAMED = 10

Stop = Callable[[], bool]

_log = logging.getLogger(__name__)


class TaskWorker:
    """Works off claimed tasks.

    Parameters
    ----------
    queue
        Where the claims come from.
    data_root
        Where the candles are and the results go.
    threads
        Symbols computed at once, of all tasks together. A sweep computes on all processors by itself, so one sweep is
        computed at a time.
    candles
        The candles, if they are not under `data_root`.
    name
        Who the queue is told works; host and process by default.
    """

    def __init__(
        self,
        queue: Queue,
        data_root: Path,
        *,
        threads: int | None = None,
        candles: CandleStore | None = None,
        name: str | None = None,
    ) -> None:
        self.queue = queue
        self.store = TaskStore(data_root)
        self.threads = threads or os.cpu_count() or 1
        self.candles = candles or CandleStore(data_root)
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._sweeping = threading.Lock()

    def run(self, claims: Sequence[Claim], run_id: str, stop: Stop = lambda: False) -> dict[str, Outcome]:
        """Work off tasks and return what the queue made of each.

        Parameters
        ----------
        claims
            Tasks claimed for this process.
        run_id
            Who started it, for the record.
        stop
            Asked five times a second; true says that the process has to end: what is finished is kept, and unfinished
            tasks go back to the queue.

        Returns
        -------
        dict of str to Outcome
            By task id: `completed`, `failed`, `cancelled`, `queued` (to be tried again), or `lost` when the claim is
            void or the queue could not be told.
        """
        jobs = [Job(claim) for claim in claims]
        reporter = Reporter(self.queue)
        try:
            reporter.start()
            for job in jobs:
                self._begin(job, run_id, stop, reporter)
            run_parallel(
                _in_turn(jobs),
                self._work,
                threads=self.threads,
                on_done=lambda item: self._settle([item[0]], reporter),
                on_wait=lambda: self._look(reporter, stop),
            )
            self._wait(reporter, stop)
        except BaseException:
            # An interrupt (Ctrl-C, a terminated run), or a bug of ours: either way the tasks are not done.
            self._wait(reporter, lambda: True)
            raise
        finally:
            reporter.stop()
        return {job.claim.task_id: job.outcome or "lost" for job in jobs}

    # ---- the calling thread: begin, look after, end

    def _begin(self, job: Job, run_id: str, stop: Stop, reporter: Reporter) -> None:
        if not self._start(job.claim, run_id, stop):
            job.outcome = "lost"
            return
        reporter.jobs.append(job)
        try:
            job.directory = self.store.begin(job.claim.task_id, job.claim.attempt)
        except Superseded:
            job.end("lost")
        except Exception as error:
            job.broken = Failure.of(error)

    def _start(self, claim: Claim, run_id: str, stop: Stop) -> bool:
        unsure = False
        while not stop():
            try:
                if self.queue.start(claim, run_id, self.name):
                    return True
                # The answer to an earlier try may have been lost on its way.
                return unsure and self.queue.report(claim, 0.0, 0) is not Signal.LOST
            except TransientError as error:
                _log.warning("task %s cannot be started now: %s", claim.task_id, error)
                unsure = True
            time.sleep(_START_AGAIN_SECONDS)
        return False

    def _look(self, reporter: Reporter, stop: Stop) -> None:
        """Bring jobs to their end that have come there, or all when the process has to end."""
        if stop():
            for job in reporter.jobs:
                job.end("stopped")
        self._settle(reporter.jobs, reporter)

    def _wait(self, reporter: Reporter, stop: Stop) -> None:
        """Wait until the queue knows of every job, but not for ever when the process is to end."""
        deadline = None
        while any(job.outcome is None for job in reporter.jobs):
            self._look(reporter, stop)
            if stop():
                deadline = deadline or time.monotonic() + _LAST_WORDS_SECONDS
                if time.monotonic() > deadline:
                    return
            reporter.heard.wait(_POLL_SECONDS)
            reporter.heard.clear()

    def _settle(self, jobs: Sequence[Job], reporter: Reporter) -> None:
        """Bring the files of jobs that nobody works on any more to their end, and have the queue told."""
        for job in jobs:
            if job.is_idle():
                reason = job.reason
                job.say(self._last_word(job, reason), reason)
                reporter.wake.set()

    def _last_word(self, job: Job, reason: Reason | None) -> Tell:
        claim, path = job.claim, str(self.store.folder(job.claim.task_id))
        try:
            if reason == "cancel":
                _remove(job)
                return lambda queue: "cancelled" if job.cancel_noted or queue.cancelled(claim) else "lost"
            if reason != "lost" and not job.closed:
                job.verdict, job.closed = _close(job, reason), True
        except Superseded:
            reason = "lost"
        failure = job.verdict
        if reason == "lost":
            return lambda _: "lost"
        if failure is None:
            return lambda queue: "completed" if queue.complete(claim, path) else None
        return lambda queue: queue.fail(claim, failure.error, failure.kind, failure.traceback) or "lost"

    # ---- the computing threads

    def _work(self, item: tuple[Job, str], stopped: Stop) -> None:
        job, symbol = item
        directory = job.directory
        if directory is None or not job.enter():
            return

        def cancelled() -> bool:
            return job.reason is not None or stopped()

        try:
            self._compute(job, symbol, directory, cancelled)
            job.worked(symbol)
        except Superseded:
            job.end("lost")
        except Exception as error:
            if isinstance(error, Cancelled) and cancelled():
                return
            job.worked(symbol, Failure.of(error))
            with suppress(CoinHtsError, OSError):
                directory.discard(symbol)
        finally:
            job.leave()

    def _compute(self, job: Job, symbol: str, directory: TaskDirectory, cancelled: Stop) -> None:
        started, request = datetime.now(UTC), job.claim.request
        backtest, timeframe = request.backtest, Timeframe(request.backtest.timeframe)
        candles = self.candles.load(symbol, timeframe, request.start, request.end)
        if candles.empty:
            span = f"from {request.start or 'its beginning'} to {request.end or 'now'}"
            raise NoCandles(f"{symbol} has no {timeframe} candles {span}")
        arrays = validated_arrays(candles, timeframe)
        source = self.candles.source_of(symbol, timeframe) or UNKNOWN_SOURCE
        synthetic = is_synthetic(source)

        def progress(share: float) -> None:
            job.advance(symbol, share)

        if not request.grid:
            if directory.kept(symbol, lambda: inputs_digest(arrays, backtest.identity())) is not None:
                return
            result = run_backtest(candles, backtest, progress=progress, cancelled=cancelled)
            directory.save_backtest(symbol, result, candle_source=source, synthetic=synthetic, started=started)
            return
        sampling = Sampling(**request.sampling)
        combinations, draw = sampled_combinations(backtest, request.grid, sampling, cancelled)
        given = SweepResult(backtest, arrays, tuple(combinations), pd.DataFrame(), draw)
        if directory.kept(symbol, lambda: given.inputs_digest) is not None:
            return
        with self._turn_to_sweep(cancelled):
            half = sweep_combinations(
                arrays, backtest, combinations, progress=lambda share: progress(share / 2), cancelled=cancelled
            )
            sweep = replace(half, draw=draw)
            guards = overfitting_guards(
                candles, sweep, progress=lambda share: progress((1 + share) / 2), cancelled=cancelled
            )
        directory.save_sweep(symbol, sweep, guards, candle_source=source, synthetic=synthetic, started=started)

    @contextmanager
    def _turn_to_sweep(self, cancelled: Stop) -> Iterator[None]:
        while not self._sweeping.acquire(timeout=_POLL_SECONDS):
            if cancelled():
                raise Cancelled("the sweep was cancelled before it began")
        try:
            yield
        finally:
            self._sweeping.release()


def _in_turn(jobs: Sequence[Job]) -> list[tuple[Job, str]]:
    """Symbols of all jobs, one of each in turn, so that a small task does not wait for a large one; sweeps last."""
    turns: list[tuple[Job, str]] = []
    for sweeps in (False, True):
        lines = [
            [(job, symbol) for symbol in job.claim.request.symbols]
            for job in jobs
            if bool(job.claim.request.grid) == sweeps
        ]
        turns += [item for turn in zip_longest(*lines) for item in turn if item is not None]
    return turns


def _remove(job: Job) -> None:
    """Remove the files of a cancelled job; what cannot be removed now is left to the clean-up."""
    try:
        if job.directory is not None:
            job.directory.remove()
    except Superseded:
        raise
    except (CoinHtsError, OSError) as error:
        _log.warning("the files of task %s cannot be removed: %s", job.claim.task_id, error)


def _close(job: Job, reason: Reason | None) -> Failure | None:
    """Write summary and manifest, and return what the queue is to be told went wrong."""
    failure = _failure(job, reason)
    if job.directory is None:
        return failure
    request = job.claim.request
    try:
        job.directory.finish(
            request.to_dict(),
            request.symbols,
            started=job.began,
            failed={symbol: one.message for symbol, one in sorted(job.failures.items())},
            error=failure.message if failure else None,
        )
    except Superseded:
        raise
    except Exception as error:
        _log.warning("the manifest of task %s cannot be written: %s", job.claim.task_id, error)
        return failure or Failure.of(error)
    return failure


def _failure(job: Job, reason: Reason | None) -> Failure | None:
    if job.broken is not None:
        return job.broken
    if not job.worked_off:
        if reason == "timeout":
            return Failure(TimeoutError(f"not finished within {job.claim.timeout_seconds:g} s"), "timeout")
        return Failure(TransientError("the worker was stopped"), "transient")
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
