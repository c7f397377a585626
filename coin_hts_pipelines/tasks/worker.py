"""The worker: computes the symbols of claimed tasks in parallel threads and brings each task to its end.

Several tasks share a process; each has its own progress, cancel, timeout and failure (docs/tasks.md). Not here: how a
task changes (`queue`), how it ends (`closer`), how its files are kept (`results.task_store`).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from coin_hts_pipelines.backtest import Sampling, SweepResult, overfitting_guards, run_backtest
from coin_hts_pipelines.backtest.combinations import sampled_combinations
from coin_hts_pipelines.backtest.digest import inputs_digest
from coin_hts_pipelines.backtest.sweep import sweep_combinations
from coin_hts_pipelines.errors import Cancelled, CoinHtsError, NoCandles, PermanentError, TransientError
from coin_hts_pipelines.lake import CandleStore, is_synthetic
from coin_hts_pipelines.lake.candle_files import UNKNOWN_SOURCE
from coin_hts_pipelines.market import Timeframe, validated_arrays
from coin_hts_pipelines.operations.logs import bind
from coin_hts_pipelines.parallel import interrupts_later, run_parallel
from coin_hts_pipelines.results.task_store import Superseded, TaskDirectory, TaskStore
from coin_hts_pipelines.tasks.closer import Closer, Export
from coin_hts_pipelines.tasks.reporter import Failure, Job, Outcome, Queue, Reporter
from coin_hts_pipelines.tasks.task import Claim, Signal

__all__ = ["Export", "Follow", "Outcome", "Queue", "TaskWorker"]

# How long a process that is asked to end tries to say so of its tasks.
_LAST_WORDS_SECONDS = 10.0
_POLL_SECONDS = 0.1
_START_AGAIN_SECONDS = 0.5
# With the outcome at most five calls a second.
_FOLLOW_SECONDS = 0.25

Stop = Callable[[], bool]
# Told of a task's id, progress (0..1) and, at the end, outcome.
Follow = Callable[[str, float, Outcome | None], None]

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
        Symbols computed at once, of all tasks together; one sweep at a time, which has as many threads for itself.
    candles
        The candles, if they are not under `data_root`.
    export
        Where results go too; a task is completed only when that has succeeded.
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
        export: Export | None = None,
        name: str | None = None,
    ) -> None:
        self.queue = queue
        self.store = TaskStore(data_root)
        self.threads = threads or os.cpu_count() or 1
        self.candles = candles or CandleStore(data_root)
        self.export = export
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._sweeping = threading.Lock()

    def run(
        self,
        claims: Sequence[Claim],
        run_id: str,
        stop: Stop = lambda: False,
        *,
        follow: Follow | None = None,
        on_interrupt: Callable[[], None] | None = None,
    ) -> dict[str, Outcome]:
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
        follow
            Called in this thread when progress or outcome of a task has changed, at most five times a second for each;
            with the outcome once, before this returns. What it raises is logged.
        on_interrupt
            Called once, in this thread, when an interrupt (Ctrl-C, a terminated run) ends the work and before the
            queue is told: tasks whose cancel it asks for end as cancelled, the others go back.

        Returns
        -------
        dict of str to Outcome
            By task id: `completed`, `failed`, `cancelled`, `queued` (to be tried again), or `lost` when the claim is
            void or the queue could not be told.
        """
        jobs = [Job(claim) for claim in claims]
        reporter = Reporter(self.queue)
        closer = Closer(self.store, reporter, self.export)
        followed = _Followed(jobs, follow)

        def look(stop: Stop) -> None:
            if stop():
                for job in reporter.jobs:
                    job.end("stopped")
            closer.settle(reporter.jobs)
            followed.tell()

        try:
            with interrupts_later():
                reporter.start()
            for job in jobs:
                self._begin(job, run_id, stop, reporter)
            run_parallel(
                _in_turn(jobs),
                self._work,
                threads=self.threads,
                on_done=lambda item: closer.settle([item[0]]),
                on_wait=lambda: look(stop),
            )
            self._wait(reporter, stop, look)
        except BaseException as error:
            # An interrupt, or a bug of ours: either way the tasks are not done.
            if on_interrupt is not None and not isinstance(error, Exception):
                _logged(on_interrupt)
            self._wait(reporter, lambda: True, look)
            raise
        finally:
            reporter.stop()
            closer.wait_for_removal(jobs)
            outcomes = {job.claim.task_id: job.outcome or "lost" for job in jobs}
            followed.tell(outcomes)
        return outcomes

    # ---- the calling thread: begin, look after

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

    @staticmethod
    def _wait(reporter: Reporter, stop: Stop, look: Callable[[Stop], None]) -> None:
        """Wait until the queue knows of every job, but not for ever when the process is to end."""
        deadline = None
        while any(job.outcome is None for job in reporter.jobs):
            look(stop)
            if stop():
                deadline = deadline or time.monotonic() + _LAST_WORDS_SECONDS
                if time.monotonic() > deadline:
                    return
            reporter.heard.wait(_POLL_SECONDS)
            reporter.heard.clear()

    # ---- the computing threads

    def _work(self, item: tuple[Job, str], stopped: Stop) -> None:
        job, symbol = item
        directory = job.directory
        if directory is None or not job.enter():
            return

        def cancelled() -> bool:
            return job.reason is not None or stopped()

        try:
            with bind(task=job.claim.task_id, symbol=symbol):
                self._compute(job, symbol, directory, cancelled)
            job.worked(symbol)
        except Superseded:
            job.end("lost")
        except (Exception, SystemExit) as error:
            if isinstance(error, Cancelled) and cancelled():
                return
            job.worked(symbol, Failure.of(error if isinstance(error, Exception) else _ended_by(error)))
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
                arrays,
                backtest,
                combinations,
                threads=self.threads,
                progress=lambda share: progress(share / 2),
                cancelled=cancelled,
            )
            sweep = replace(half, draw=draw)
            guards = overfitting_guards(
                candles,
                sweep,
                threads=self.threads,
                progress=lambda share: progress((1 + share) / 2),
                cancelled=cancelled,
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


class _Followed:
    """Tells a follower what has changed; what it raises is logged."""

    def __init__(self, jobs: Sequence[Job], follow: Follow | None) -> None:
        self.jobs = jobs
        self.follow = follow
        self.progress: dict[str, float] = {}
        self.told_at: dict[str, float] = {}
        self.ended: set[str] = set()

    def tell(self, outcomes: Mapping[str, Outcome] = MappingProxyType({})) -> None:
        if self.follow is None:
            return
        for job in self.jobs:
            task_id = job.claim.task_id
            outcome, progress, now = outcomes.get(task_id, job.outcome), job.progress, time.monotonic()
            if task_id in self.ended:
                continue
            if outcome is not None:
                self.ended.add(task_id)
            elif progress == self.progress.get(task_id, 0.0) or now - self.told_at.get(task_id, 0) < _FOLLOW_SECONDS:
                continue
            self.progress[task_id], self.told_at[task_id] = progress, now
            _logged(partial(self.follow, task_id, progress, outcome))


def _ended_by(error: SystemExit) -> PermanentError:
    """What a strategy does that ends the program must not end the other tasks."""
    made = PermanentError(f"the strategy wanted to end the program (SystemExit: {error})")
    made.__cause__ = error
    return made


def _logged(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        _log.exception("the work goes on without what failed here")


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
