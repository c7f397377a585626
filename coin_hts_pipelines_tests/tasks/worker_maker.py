"""Workers for tests: a queue in memory with the guards of the real one, a lake, and a strategy that waits when told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.errors import TransientError
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.results.task_store import TaskManifest
from coin_hts_pipelines.storage import DirectoryStore, ObjectStore, UploadOutcome
from coin_hts_pipelines.strategies import registry
from coin_hts_pipelines.strategies.base import Param, Strategy
from coin_hts_pipelines.tasks.task import Claim, ErrorKind, Signal, State, TaskRequest
from coin_hts_pipelines_tests.candle_maker import random_walk

SYMBOLS = ("KRW-ADA", "KRW-BTC", "KRW-ETH", "KRW-XRP")
BARS = 120


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for a condition that has to come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


def fill_lake(root: Path, symbols: tuple[str, ...] = SYMBOLS, bars: int = BARS) -> CandleStore:
    """Sample candles of some symbols, each its own."""
    store = CandleStore(root)
    for seed, symbol in enumerate(symbols):
        store.merge(symbol, "1D", random_walk(bars, seed), source="sample")
    return store


class Slow(Strategy):
    """Buys every third bar; calls `at` before each slice of 20 bars."""

    name = "slow"
    params = (Param("every", 3, 1, 100, "bars between two signals"),)
    at: Callable[[int], None] = staticmethod(lambda start: None)

    def nanoseconds_per_bar(self, params: Any) -> float:
        return 1e7

    def compute(self, candles: Any, params: Any, start: int, stop: int) -> Any:
        type(self).at(start)
        return np.arange(start, stop) % params["every"] == 0, np.ones(stop - start)


def offer_slow() -> None:
    registry._found()["slow"] = Slow()


def claim_of(task_id: str = "task-1", *symbols: str, attempt: int = 1, strategy: str = "slow", **changes: Any) -> Claim:
    params = changes.pop("params", {})
    request = TaskRequest(BacktestRequest(strategy, params), symbols or SYMBOLS, **changes)
    return Claim(task_id, attempt, request, 3600.0)


class MemoryQueue:
    """The states and guards of docs/tasks.md; `asked` is what `report` answers."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.attempts: dict[str, int] = {}
        self.asked: dict[str, Signal] = {}
        self.reports: dict[str, list[tuple[float, float, int]]] = {}
        self.failures: dict[str, tuple[Exception, ErrorKind, str | None]] = {}
        self.paths: dict[str, str] = {}
        self.results: dict[str, tuple[str, TaskManifest] | None] = {}
        self.unreachable = threading.Event()
        self.refused = 0
        self.lock = threading.Lock()

    def _reach(self) -> None:
        if self.unreachable.is_set():
            self.refused += 1
            raise TransientError("Postgres cannot be reached")

    def _held(self, claim: Claim) -> bool:
        return self.states.get(claim.task_id) == "running" and self.attempts[claim.task_id] == claim.attempt

    def start(self, claim: Claim, run_id: str, worker: str) -> bool:
        self._reach()
        with self.lock:
            if self.states.get(claim.task_id, "queued") != "queued":
                return False
            if self.attempts.get(claim.task_id, 0) > claim.attempt:
                return False
            self.states[claim.task_id] = "running"
            self.attempts[claim.task_id] = claim.attempt
            return True

    def report(self, claim: Claim, progress: float, symbols_done: int) -> Signal:
        self._reach()
        with self.lock:
            if not self._held(claim):
                return Signal.LOST
            self.reports.setdefault(claim.task_id, []).append((time.monotonic(), progress, symbols_done))
            return self.asked.get(claim.task_id, Signal.GO_ON)

    def complete(self, claim: Claim, path: str, manifest: TaskManifest | None = None) -> bool:
        self._reach()
        with self.lock:
            if not self._held(claim) or self.asked.get(claim.task_id) is Signal.CANCEL:
                return False
            self.states[claim.task_id] = "completed"
            self.paths[claim.task_id] = path
            self.results[claim.task_id] = (path, manifest) if manifest else None
            return True

    def fail(
        self,
        claim: Claim,
        error: Exception,
        kind: ErrorKind,
        traceback: str | None = None,
        result: tuple[str, TaskManifest] | None = None,
    ) -> State | None:
        self._reach()
        with self.lock:
            if not self._held(claim):
                return None
            asked = self.asked.get(claim.task_id) is Signal.CANCEL
            state: State = "cancelled" if asked else "queued" if kind in ("transient", "lost") else "failed"
            self.states[claim.task_id] = state
            self.failures[claim.task_id] = (error, kind, traceback)
            self.results[claim.task_id] = result
            return state

    def cancelled(self, claim: Claim) -> bool:
        self._reach()
        with self.lock:
            if not self._held(claim) or self.asked.get(claim.task_id) is not Signal.CANCEL:
                return False
            self.states[claim.task_id] = "cancelled"
            return True


class HookedStore(DirectoryStore):
    """A folder of objects; calls `at` with the key before each upload."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.at: Callable[[str], object] = lambda key: None

    def upload(self, source: Path, key: str, **named: Any) -> UploadOutcome:
        self.at(key)
        return super().upload(source, key, **named)


def keys_in(store: ObjectStore) -> set[str]:
    """Keys of everything in a store."""
    return {found.key for found in store.list()}


def paths_in(root: Path) -> set[str]:
    """Everything below DATA_ROOT/tasks but the locks."""
    tasks = root / "tasks"
    found = {str(path.relative_to(tasks)) for path in tasks.rglob("*")}
    return {name for name in found if not name.startswith(".locks")}


def strays_in(root: Path) -> set[str]:
    """Hidden files and folders."""
    return {name for name in paths_in(root) if any(part.startswith(".") for part in Path(name).parts)}
