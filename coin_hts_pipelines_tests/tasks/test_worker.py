"""The worker: what it computes is what the engine computes, and however a task ends, files and queue agree."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from coin_hts_pipelines.backtest import Between, Sampling, overfitting_guards, run_backtest, run_sweep
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.result_index import ResultIndex
from coin_hts_pipelines.errors import (
    Cancelled,
    IntegrityError,
    InvalidCandles,
    InvalidRequest,
    NoCandles,
    PermanentError,
    TransientError,
)
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.results import result_store, task_directory
from coin_hts_pipelines.results.sweep_store import SweepManifest
from coin_hts_pipelines.results.task_store import TaskStore
from coin_hts_pipelines.strategies import registry
from coin_hts_pipelines.tasks import worker as worker_module
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.reporter import Failure
from coin_hts_pipelines.tasks.task import Claim, Signal, State
from coin_hts_pipelines.tasks.worker import TaskWorker
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.lake.helpers import fill_the_disk
from coin_hts_pipelines_tests.tasks.worker_maker import (
    SYMBOLS,
    MemoryQueue,
    Slow,
    claim_of,
    fill_lake,
    paths_in,
    strays_in,
    until,
)

SPACE: dict[str, Any] = {"vol_multiplier": Between(1.0, 2.0, 0.5), "hold_period_bars": [1, 3]}


@pytest.fixture(autouse=True)
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._found(), "slow", Slow())
    monkeypatch.setattr(Slow, "at", staticmethod(lambda start: None))


@pytest.fixture
def lake(tmp_path: Path) -> CandleStore:
    return fill_lake(tmp_path)


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()


def at_bar(monkeypatch: pytest.MonkeyPatch, hook: Any) -> None:
    """Have the strategy call `hook(bar)` before each slice."""
    monkeypatch.setattr(Slow, "at", staticmethod(hook))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the inputs of every backtest that was computed."""
    found: list[str] = []

    def counted(*args: Any, **named: Any) -> Any:
        result = run_backtest(*args, **named)
        found.append(result.inputs_digest)
        return result

    monkeypatch.setattr(worker_module, "run_backtest", counted)
    return found


# ---- what is computed


def test_backtests_are_those_of_the_engine(tmp_path: Path, lake: CandleStore, queue: MemoryQueue) -> None:
    claim = claim_of("task-1", strategy="volume_long_candle", params={"body_pct": 0.005}, end="2024-03-31")
    assert TaskWorker(queue, tmp_path).run([claim], "run-1") == {"task-1": "completed"}
    stored = TaskStore(tmp_path).load("task-1")
    assert queue.paths == {"task-1": str(stored.folder)}
    for symbol in SYMBOLS:
        expected = run_backtest(lake.load(symbol, "1D", end="2024-03-31"), claim.request.backtest)
        manifest = task_directory.symbol_manifest(stored.folder / symbol)
        assert (manifest.inputs_digest, manifest.result_digest) == (expected.inputs_digest, expected.result_digest)
        assert (manifest.task, manifest.synthetic, manifest.bars) == ("task-1", True, len(expected.equity))
    manifest = stored.manifest
    assert manifest.request == claim.request.to_dict()
    assert manifest.finished_symbols == manifest.symbols == SYMBOLS
    assert manifest.totals == {"symbols": 4, "finished": 4, "failed": 0, "backtests": 4, "bars": manifest.bars}
    assert manifest.error is None
    assert stored.summary is not None
    assert sorted(stored.summary["symbol"]) == sorted(SYMBOLS)
    assert strays_in(tmp_path) == set()
    assert {entry.name for entry in manifest.files} | {"manifest.json", *SYMBOLS} == {
        name.partition("/")[2] for name in paths_in(tmp_path) if "/" in name
    }


@pytest.mark.parametrize("sampling", [{}, {"method": "lhs", "trials": 5, "seed": 3}])
def test_sweeps_are_those_of_the_engine(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, sampling: dict[str, Any]
) -> None:
    claim = claim_of("s", "KRW-ADA", "KRW-BTC", strategy="volume_long_candle", grid=SPACE, sampling=sampling)
    assert TaskWorker(queue, tmp_path, threads=2).run([claim], "run-1") == {"s": "completed"}
    stored = TaskStore(tmp_path).load("s")
    for symbol in claim.request.symbols:
        candles = lake.load(symbol, "1D")
        sweep = run_sweep(candles, claim.request.backtest, SPACE, sampling=Sampling(**sampling))
        manifest = SweepManifest.load(stored.folder / symbol)
        assert (manifest.inputs_digest, manifest.result_digest) == (sweep.inputs_digest, sweep.table_digest)
        assert manifest.figures["trials"] == overfitting_guards(candles, sweep).trials
        assert manifest.sampling == {"method": "grid", "trials": None, "seed": 0, **sampling}
    assert stored.manifest.totals["backtests"] == 2 * len(sweep.table)
    assert stored.summary is not None
    assert set(stored.summary["symbol"]) == {"KRW-ADA", "KRW-BTC"}
    assert "deflated_sharpe" in stored.summary


def test_figures_of_a_lone_symbol_are_those_of_the_task(tmp_path: Path, lake: CandleStore, queue: MemoryQueue) -> None:
    TaskWorker(queue, tmp_path).run([claim_of("one", "KRW-BTC")], "run-1")
    manifest = TaskStore(tmp_path).manifest("one")
    expected = run_backtest(lake.load("KRW-BTC", "1D"), claim_of("one").request.backtest)
    assert manifest.figures["total_return"] == expected.metrics["total_return"]


# ---- progress


def test_progress_rises_to_the_end_also_within_a_symbol(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for_a_report(bar: int) -> None:
        said = len(queue.reports.get("t", ()))
        until(lambda: len(queue.reports.get("t", ())) > said)

    at_bar(monkeypatch, wait_for_a_report)
    assert TaskWorker(queue, tmp_path, threads=2).run([claim_of("t", "KRW-ADA", "KRW-BTC")], "r") == {"t": "completed"}
    times, shares, done = zip(*queue.reports["t"], strict=True)
    assert list(shares) == sorted(shares)
    assert list(done) == sorted(done)
    assert 0 <= shares[0] < 0.5 < shares[-1] <= 1
    assert len({share for share, finished in zip(shares, done, strict=True) if finished == 0}) >= 3
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.249, "at most four a second"


def test_a_sign_of_life_comes_while_nothing_moves(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_bar(monkeypatch, lambda bar: bar == 40 and until(lambda: len(queue.reports.get("t", ())) >= 4))
    assert TaskWorker(queue, tmp_path).run([claim_of("t", "KRW-ADA")], "r") == {"t": "completed"}


# ---- again


def test_a_retry_computes_only_what_is_not_there(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, computed: list[str]
) -> None:
    first = claim_of("t")
    directory = TaskStore(tmp_path).begin("t", 1)
    for symbol in ("KRW-ADA", "KRW-BTC", "KRW-ETH"):
        result = run_backtest(lake.load(symbol, "1D"), first.request.backtest)
        directory.save_backtest(symbol, result, candle_source="sample", synthetic=True, started=datetime.now(UTC))
    kept = (tmp_path / "tasks" / "t" / "KRW-ADA" / "manifest.json").read_bytes()
    # One has other candles now, one a damaged file.
    lake.merge("KRW-BTC", "1D", random_walk(130, 9), source="sample")
    (tmp_path / "tasks" / "t" / "KRW-ETH" / "trades.parquet").write_bytes(b"damaged")
    queue.attempts["t"] = 2
    assert TaskWorker(queue, tmp_path).run([claim_of("t", attempt=2)], "r") == {"t": "completed"}
    expected = [run_backtest(lake.load(s, "1D"), first.request.backtest).inputs_digest for s in SYMBOLS[1:]]
    assert sorted(computed) == sorted(expected)
    assert (tmp_path / "tasks" / "t" / "KRW-ADA" / "manifest.json").read_bytes() == kept
    assert TaskStore(tmp_path).load("t").manifest.attempt == 2


def test_a_retry_keeps_finished_sweeps(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claim_of("t", "KRW-ADA", "KRW-BTC", strategy="volume_long_candle", grid=SPACE)
    assert TaskWorker(queue, tmp_path).run([claim], "r") == {"t": "completed"}

    def again(*_: Any, **__: Any) -> None:
        raise ValueError("computed again")

    monkeypatch.setattr(worker_module, "sweep_combinations", again)
    queue.states["t"] = "queued"
    same = replace(claim, attempt=2)
    assert TaskWorker(queue, tmp_path).run([same], "r") == {"t": "completed"}
    queue.states["t"] = "queued"
    other = replace(claim, attempt=3, request=replace(claim.request, grid={**SPACE, "body_pct": [0.01]}))
    assert TaskWorker(queue, tmp_path).run([other], "r") == {"t": "failed"}
    assert "computed again" in str(queue.failures["t"][0]), "another grid is another sweep"


# Works on a task with one thread and stops in the middle of writing the third symbol.
_STUCK = """
import sys
from pathlib import Path
from coin_hts_pipelines.results import task_directory
from coin_hts_pipelines.tasks.worker import TaskWorker
from coin_hts_pipelines_tests.tasks.worker_maker import MemoryQueue, claim_of, offer_slow

offer_slow()
write = task_directory.write_result

def stuck(aside, result, manifest):
    write(aside, result, manifest)
    if manifest.symbols == ("KRW-ETH",):
        print("inside", flush=True)
        sys.stdin.read()

task_directory.write_result = stuck
TaskWorker(MemoryQueue(), Path(sys.argv[1]), threads=1).run([claim_of("t")], "r")
"""


def test_after_a_kill_the_next_attempt_computes_the_rest(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, computed: list[str]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _STUCK, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    assert {"t/.KRW-ETH.1.tmp", "t/.attempt", "t/KRW-ADA", "t/KRW-BTC"} <= paths_in(tmp_path)
    assert "t/KRW-ETH" not in paths_in(tmp_path)
    with pytest.raises(IntegrityError, match="manifest"):
        TaskStore(tmp_path).load("t")
    queue.attempts["t"] = 2
    assert TaskWorker(queue, tmp_path).run([claim_of("t", attempt=2)], "r") == {"t": "completed"}
    assert len(computed) == 2
    assert strays_in(tmp_path) == set()
    undisturbed = claim_of("u")
    TaskWorker(queue, tmp_path).run([undisturbed], "r")
    store = TaskStore(tmp_path)
    assert store.load("t").manifest.result_digest == store.load("u").manifest.result_digest


# ---- ends that are asked for


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Any]]:
    """Hooks by moment: every slice of a computation, and every table written, is one."""
    hooks: dict[int, Any] = {}
    numbers = count()
    write = result_store.write_table

    def moment() -> None:
        hooks.pop(next(numbers), lambda: None)()

    def written(*args: Any) -> None:
        moment()
        write(*args)

    at_bar(monkeypatch, lambda bar: moment())
    monkeypatch.setattr(result_store, "write_table", written)
    yield hooks
    assert not hooks, "the moment came"


# At the odd ones the work waits until the worker has heard.
MOMENTS = (0, 1, 6, 7, 8, 10, 13, 20, 29, 30, 37, 38)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("asked", [Signal.CANCEL, Signal.TIMEOUT, Signal.LOST])
def test_an_end_at_any_moment_leaves_no_stray_file(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, moments: dict[int, Any], asked: Signal, moment: int
) -> None:
    """Four symbols of ten moments each: six slices, four tables."""
    heard = moment % 2 == 1

    def ask() -> None:
        queue.asked["t"] = asked
        said = len(queue.reports.get("t", ()))
        # When the next but one comes, the answer to the next was heard.
        until(lambda: not heard or len(queue.reports.get("t", ())) >= said + 2)

    moments[moment] = ask
    (outcome,) = TaskWorker(queue, tmp_path, threads=1).run([claim_of("t")], "r").values()
    left = paths_in(tmp_path)
    if asked is Signal.CANCEL:
        assert outcome == queue.states["t"] == "cancelled"
        assert left == set()
    elif asked is Signal.TIMEOUT and outcome != "completed":
        assert outcome == queue.states["t"] == "failed"
        assert queue.failures["t"][1] == "timeout"
        manifest = TaskStore(tmp_path).load("t").manifest
        assert manifest.error == "TimeoutError: not finished within 3600 s"
        assert len(manifest.finished_symbols) < 4
        assert strays_in(tmp_path) == set()
    elif outcome == "lost":
        assert queue.states["t"] == "running", "it says nothing any more"
        # On a slow machine it may hear so only after its manifest was written and the file removed.
        finished = "t/manifest.json" in left
        assert not (finished and heard)
        assert strays_in(tmp_path) == (set() if finished else {"t/.attempt"})
    else:
        assert outcome == queue.states["t"] == "completed"
        assert not heard or (asked is Signal.TIMEOUT and moment == 37), "in time, though only just"
    # Whatever happened, the next attempt brings it to its end.
    if outcome not in ("completed", "cancelled"):
        queue.asked.clear()
        queue.states["t"] = "queued"
        assert TaskWorker(queue, tmp_path).run([claim_of("t", attempt=2)], "r") == {"t": "completed"}
        assert TaskStore(tmp_path).load("t").manifest.finished_symbols == SYMBOLS
        assert strays_in(tmp_path) == set()


@pytest.mark.parametrize("broken", [False, True])
def test_a_cancel_at_the_last_moment_wins(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """The manifest is there, and only then the queue says that a cancel was asked for."""
    if broken:
        at_bar(monkeypatch, lambda bar: 1 / 0)
    finish = task_directory.TaskDirectory.finish

    def finished(self: Any, *args: Any, **named: Any) -> Any:
        manifest = finish(self, *args, **named)
        queue.asked["t"] = Signal.CANCEL
        return manifest

    monkeypatch.setattr(task_directory.TaskDirectory, "finish", finished)
    assert TaskWorker(queue, tmp_path).run([claim_of("t")], "r") == {"t": "cancelled"}
    assert paths_in(tmp_path) == set()


def test_a_sweep_that_waits_for_its_turn_can_be_cancelled(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until_the_other_is_gone(bar: int) -> None:
        queue.asked["b"] = Signal.CANCEL
        until(lambda: queue.states["b"] == "cancelled")

    at_bar(monkeypatch, until_the_other_is_gone)
    claims = [claim_of(name, "KRW-ADA", grid={"every": [2, 3]}) for name in "ab"]
    assert TaskWorker(queue, tmp_path, threads=2).run(claims, "r") == {"a": "completed", "b": "cancelled"}


def test_a_process_that_is_asked_to_end_gives_its_tasks_back(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, moments: dict[int, Any], computed: list[str]
) -> None:
    ending = threading.Event()
    looks: list[bool] = []

    def stop() -> bool:
        looks.append(ending.is_set())
        return looks[-1]

    def end() -> None:
        ending.set()
        until(lambda: sum(looks) >= 2)

    moments[14] = end
    worker = TaskWorker(queue, tmp_path, threads=1)
    claims = [claim_of("t"), claim_of("u", "KRW-BTC")]
    assert worker.run(claims, "r", stop) == {"t": "queued", "u": "queued"}
    assert queue.failures["t"][1] == "transient"
    assert str(queue.failures["t"][0]) == "the worker was stopped"
    manifest = TaskStore(tmp_path).load("t").manifest
    assert (manifest.finished_symbols, manifest.error) == (("KRW-ADA",), "the worker was stopped")
    computed.clear()
    assert worker.run([claim_of("t", attempt=2)], "r") == {"t": "completed"}
    assert len(computed) == 3


_INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from coin_hts_pipelines.tasks.worker import TaskWorker
from coin_hts_pipelines_tests.tasks.worker_maker import MemoryQueue, Slow, claim_of, offer_slow

offer_slow()
signal.signal(signal.SIGINT, signal.default_int_handler)
calls = iter(range(1000))
Slow.at = staticmethod(lambda bar: next(calls) == 8 and os.kill(os.getpid(), signal.SIGINT))
queue = MemoryQueue()
try:
    TaskWorker(queue, Path(sys.argv[1]), threads=1).run([claim_of("t")], "r")
except KeyboardInterrupt:
    print(queue.states["t"], queue.failures["t"][1], flush=True)
"""


def test_an_interrupt_gives_the_tasks_back(tmp_path: Path, lake: CandleStore) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "queued transient\n", done.stderr
    manifest = TaskStore(tmp_path).load("t").manifest
    assert manifest.finished_symbols[:1] == ("KRW-ADA",)
    assert strays_in(tmp_path) == set()


# Two tasks; whoever cancels the run cancels one of them. The argument says where the interrupt comes.
_CANCELLED = """
import os, signal, sys, threading
from pathlib import Path
from coin_hts_pipelines.tasks.export import TaskExporter
from coin_hts_pipelines.tasks.task import Signal
from coin_hts_pipelines.tasks.worker import TaskWorker
from coin_hts_pipelines_tests.tasks.worker_maker import HookedStore, MemoryQueue, Slow, claim_of, offer_slow, until

offer_slow()
signal.signal(signal.SIGINT, signal.default_int_handler)
queue, store, said = MemoryQueue(), HookedStore(Path(sys.argv[1]) / "store"), []
interrupted = threading.Event()

def interrupt(*_):
    if not interrupted.is_set():
        interrupted.set()
        os.kill(os.getpid(), signal.SIGINT)
        until(lambda: queue.asked)

def export_at(key):
    if key.startswith("tasks/t/") and len(list(store.list("tasks/t/"))) == 2:
        interrupt()

bars = iter(range(1000))
if sys.argv[2] == "computing":
    Slow.at = staticmethod(lambda bar: next(bars) == 8 and interrupt())
else:
    store.at = export_at

def on_interrupt():
    assert threading.current_thread() is threading.main_thread()
    assert queue.states["t"] == "running"
    said.append("interrupted")
    queue.asked["t"] = Signal.CANCEL

follow = lambda task_id, progress, outcome: outcome and said.append(f"{task_id} {outcome}")
worker = TaskWorker(queue, Path(sys.argv[1]), threads=2, export=TaskExporter(lambda: store))
try:
    claims = [claim_of("t"), claim_of("u", "KRW-BTC", strategy="volume_long_candle")]
    worker.run(claims, "r", follow=follow, on_interrupt=on_interrupt)
except KeyboardInterrupt:
    print(*said[:1], *sorted(said[1:]), queue.states["t"], sep=", ")
    print([one.key for one in store.list("tasks/t/")])
"""


@pytest.mark.parametrize("where", ["computing", "exporting"])
def test_a_run_that_a_person_cancels_cancels_its_tasks(tmp_path: Path, lake: CandleStore, where: str) -> None:
    command = [sys.executable, "-c", _CANCELLED, str(tmp_path), where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said, objects = done.stdout.splitlines()
    # The other one was not cancelled: it is done already, or back in the queue.
    assert said in [f"interrupted, t cancelled, u {end}, cancelled" for end in ("completed", "queued")] or said == (
        "u completed, interrupted, t cancelled, cancelled"
    ), done.stderr
    assert objects == "[]"
    assert not (tmp_path / "tasks" / "t").exists()
    assert strays_in(tmp_path) == set()


@pytest.mark.parametrize("broken", [False, True])
def test_no_bug_is_taken_for_a_person(tmp_path: Path, lake: CandleStore, queue: MemoryQueue, broken: bool) -> None:
    """A failure of `stop` gives the tasks back; so does a person whose cancel cannot be said."""
    calls: list[str] = []

    def stop() -> bool:
        if queue.states.get("t") == "running":
            raise KeyboardInterrupt if broken else ValueError("of ours")
        return False

    def on_interrupt() -> None:
        calls.append("interrupted")
        raise TransientError("Postgres cannot be reached")

    with pytest.raises(KeyboardInterrupt if broken else ValueError):
        TaskWorker(queue, tmp_path).run([claim_of("t", "KRW-BTC")], "r", stop, on_interrupt=on_interrupt)
    assert calls == ["interrupted"] * broken
    assert queue.states["t"] in ("queued", "completed")


# ---- what goes wrong


def test_an_unreachable_database_holds_up_nothing(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, moments: dict[int, Any]
) -> None:
    finished = tmp_path / "tasks" / "t" / "manifest.json"
    moments[3] = queue.unreachable.set

    def come_back() -> None:
        until(finished.exists)
        refused = queue.refused
        until(lambda: queue.refused > refused)
        queue.unreachable.clear()

    with ThreadPoolExecutor(1) as pool:
        back = pool.submit(come_back)
        assert TaskWorker(queue, tmp_path, threads=2).run([claim_of("t")], "r") == {"t": "completed"}
        back.result(30)


def test_without_a_database_the_process_still_ends_when_asked(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, moments: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_LAST_WORDS_SECONDS", 0.2)
    moments[0] = queue.unreachable.set
    written = tmp_path / "tasks" / "t" / "manifest.json"
    assert TaskWorker(queue, tmp_path).run([claim_of("t")], "r", written.exists) == {"t": "lost"}
    assert queue.states["t"] == "running", "the reconciler finds it"
    assert TaskStore(tmp_path).load("t").manifest.finished_symbols == SYMBOLS


def test_a_worker_waits_for_the_database_to_start(tmp_path: Path, lake: CandleStore, queue: MemoryQueue) -> None:
    queue.unreachable.set()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(TaskWorker(queue, tmp_path).run, [claim_of("t", "KRW-BTC")], "r")
        until(lambda: queue.refused)
        queue.unreachable.clear()
        assert running.result(60) == {"t": "completed"}


def test_a_start_whose_answer_was_lost_is_a_start(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, calls = queue.start, count()

    def unanswered(*args: Any) -> bool:
        if next(calls) == 0:
            assert start(*args)
            raise TransientError("the connection broke")
        return start(*args)

    monkeypatch.setattr(queue, "start", unanswered)
    assert TaskWorker(queue, tmp_path).run([claim_of("t", "KRW-BTC")], "r") == {"t": "completed"}


@pytest.mark.parametrize("state", ["cancelled", "running"])
def test_a_void_claim_is_not_worked_on(tmp_path: Path, lake: CandleStore, queue: MemoryQueue, state: State) -> None:
    queue.states["t"], queue.attempts["t"] = state, 1
    assert TaskWorker(queue, tmp_path).run([claim_of("t")], "r") == {"t": "lost"}
    assert not (tmp_path / "tasks").exists()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("x"), "permanent"),
        (InvalidCandles("x"), "permanent"),
        (NoCandles("x"), "permanent"),
        (PermanentError("x"), "permanent"),
        (KeyError("x"), "permanent"),
        (MemoryError("x"), "permanent"),
        (OSError(errno.ENOSPC, "No space left on device"), "transient"),
        (Cancelled("x"), "permanent"),
        (TransientError("x"), "transient"),
        (IntegrityError("x"), "transient"),
        (OSError("x"), "transient"),
        (FileNotFoundError("x"), "transient"),
    ],
)
def test_errors_are_classed(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
) -> None:
    def wrong(bar: int) -> None:
        raise error

    at_bar(monkeypatch, wrong)
    (outcome,) = TaskWorker(queue, tmp_path).run([claim_of("t", "KRW-BTC")], "r").values()
    assert outcome == ("failed" if kind == "permanent" else "queued")
    told, as_kind, trace = queue.failures["t"]
    assert (told, as_kind) == (error, kind)
    assert trace is not None
    assert "in wrong" in trace
    assert told.__traceback__ is None, "no frame, and so no array, is kept"
    stored = TaskStore(tmp_path).load("t")
    assert (stored.summary, stored.manifest.span_start, stored.manifest.finished_symbols) == (None, None, ())
    assert stored.manifest.error == Failure(error, "permanent").message
    assert paths_in(tmp_path) == {"t", "t/manifest.json"}


def test_a_strategy_that_ends_the_program_ends_its_task_alone(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_bar(monkeypatch, lambda bar: sys.exit("enough"))
    claims = [claim_of("a", "KRW-BTC"), claim_of("s", "KRW-BTC", grid={"every": [2, 3]})]
    claims.append(claim_of("b", "KRW-BTC", strategy="volume_long_candle"))
    assert TaskWorker(queue, tmp_path).run(claims, "r") == {"a": "failed", "s": "failed", "b": "completed"}
    error, kind, trace = queue.failures["a"]
    assert (str(error), kind) == ("the strategy wanted to end the program (SystemExit: enough)", "permanent")
    assert "sys.exit" in str(trace)


def test_a_poisoned_candle_file_fails_the_task_and_keeps_the_others(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue
) -> None:
    (tmp_path / "KRW-BTC" / "1D" / "2024.parquet").write_bytes(b"poison")
    shutil.rmtree(tmp_path / "KRW-XRP")
    assert TaskWorker(queue, tmp_path).run([claim_of("t")], "r") == {"t": "failed"}
    error, kind, _ = queue.failures["t"]
    assert kind == "permanent"
    assert str(error).startswith("2 of 4 symbols failed: KRW-BTC: ")
    manifest = TaskStore(tmp_path).load("t").manifest
    assert manifest.error == str(error)
    assert manifest.finished_symbols == ("KRW-ADA", "KRW-ETH")
    assert set(manifest.failed_symbols) == {"KRW-BTC", "KRW-XRP"}
    assert "cannot be read" in manifest.failed_symbols["KRW-BTC"]
    assert manifest.totals["failed"] == 2
    assert strays_in(tmp_path) == set()


def test_one_permanent_error_is_enough_and_no_old_result_stays_beside_it(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, moments: dict[int, Any]
) -> None:
    worker = TaskWorker(queue, tmp_path, threads=1)
    moments[17] = fill_the_disk
    assert worker.run([claim_of("t", *SYMBOLS[:2])], "r") == {"t": "queued"}
    (tmp_path / "KRW-ADA" / "1D" / "2024.parquet").write_bytes(b"poison")
    # Slices of the second symbol are 20 to 25, its tables 26 to 29.
    moments[27] = fill_the_disk
    assert worker.run([claim_of("t", *SYMBOLS[:2], attempt=2)], "r") == {"t": "failed"}
    assert queue.failures["t"][1] == "permanent"
    assert paths_in(tmp_path) == {"t", "t/manifest.json"}


@pytest.mark.parametrize("at", [0, 3, 5, 15])
def test_a_full_disk_is_tried_again(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, moments: dict[int, Any], computed: list[str], at: int
) -> None:
    moments[(at // 4) * 10 + 6 + at % 4] = fill_the_disk
    worker = TaskWorker(queue, tmp_path, threads=1)
    assert worker.run([claim_of("t")], "r") == {"t": "queued"}
    assert "No space left on device" in str(queue.failures["t"][0])
    manifest = TaskStore(tmp_path).load("t").manifest
    assert len(manifest.finished_symbols) == 3
    assert strays_in(tmp_path) == set()
    computed.clear()
    assert worker.run([claim_of("t", attempt=2)], "r") == {"t": "completed"}
    assert len(computed) == 1


def test_a_disk_full_at_the_manifest_is_tried_again(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch, computed: list[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(task_directory, "write_table_atomically", fill_the_disk)
        assert TaskWorker(queue, tmp_path).run([claim_of("t")], "r") == {"t": "queued"}
    assert queue.failures["t"][1] == "transient"
    assert "t/manifest.json" not in paths_in(tmp_path)
    computed.clear()
    assert TaskWorker(queue, tmp_path).run([claim_of("t", attempt=2)], "r") == {"t": "completed"}
    assert computed == []


def test_a_directory_that_is_a_link_fails_the_task(tmp_path: Path, lake: CandleStore, queue: MemoryQueue) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "t").symlink_to(outside)
    assert TaskWorker(queue, tmp_path).run([claim_of("t")], "r") == {"t": "failed"}
    assert list(outside.iterdir()) == []


# ---- many at once


def test_two_attempts_at_once(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is held in the middle of a write, given up and overtaken; then it wakes up."""
    inside, go, write = threading.Event(), threading.Event(), task_directory.write_result

    def held(aside: Path, result: Any, manifest: Any) -> Any:
        if aside.name == ".KRW-BTC.1.tmp":
            inside.set()
            assert go.wait(60)
        return write(aside, result, manifest)

    monkeypatch.setattr(task_directory, "write_result", held)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(TaskWorker(queue, tmp_path, threads=2).run, [claim_of("t")], "r")
        assert inside.wait(60)
        queue.states["t"] = "queued"
        assert TaskWorker(queue, tmp_path).run([claim_of("t", attempt=2)], "r") == {"t": "completed"}
        before = TaskStore(tmp_path).load("t")
        go.set()
        assert first.result(60) == {"t": "lost"}
    after = TaskStore(tmp_path).load("t")
    assert after.manifest == before.manifest
    assert after.manifest.attempt == 2
    assert strays_in(tmp_path) == set()


def test_fifty_tasks_share_a_process(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fails, one is cancelled, one times out, one is lost, one is a sweep; the others know nothing of it."""
    claims = [claim_of(f"t{k:02}", SYMBOLS[k % 4], params={"every": 3 + k}) for k in range(46)]
    claims += [claim_of("missing", "KRW-NONE")]
    claims += [claim_of(name, params={"every": 2}) for name in ("cancel", "timeout")]
    claims += [claim_of("sweep", "KRW-BTC", strategy="volume_long_candle", grid=SPACE)]
    queue.asked |= {"cancel": Signal.CANCEL, "timeout": Signal.TIMEOUT}

    def wait_for_a_word(bar: int) -> None:
        # The first slices end when the two have been told.
        until(lambda: {"cancel", "timeout"} <= queue.reports.keys())

    at_bar(monkeypatch, wait_for_a_word)
    outcomes = TaskWorker(queue, tmp_path, threads=3).run(claims, "r")
    others = {claim.task_id: "completed" for claim in claims}
    assert outcomes == {**others, "missing": "failed", "cancel": "cancelled", "timeout": "failed"}
    assert queue.states == outcomes
    assert queue.failures["timeout"][1] == "timeout"
    store = TaskStore(tmp_path)
    assert store.ids() == sorted(set(outcomes) - {"cancel"})
    assert all(store.load(name).manifest.error is None for name, end in outcomes.items() if end == "completed")
    assert strays_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("threads", "grid", "most"),
    [(1, {}, 1), (3, {}, 3), (3, {"every": [2]}, 1), (1, {"every": [2, 3, 4]}, 1), (3, {"every": [2, 3, 4, 5]}, 3)],
)
def test_no_more_symbols_are_computed_at_once_than_threads(
    tmp_path: Path,
    lake: CandleStore,
    queue: MemoryQueue,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    grid: dict[str, Any],
    most: int,
) -> None:
    """Of sweeps one, which has all threads."""
    inside: list[int] = []
    seen: list[int] = []

    def at(bar: int) -> None:
        inside.append(bar)
        seen.append(len(inside))
        threading.Event().wait(0.02)  # long enough for one that should not be here to come in
        until(lambda: len(inside) >= most or len(seen) > 4)
        inside.remove(bar)

    at_bar(monkeypatch, at)
    claims = [claim_of(name, *SYMBOLS[:2], grid=grid) for name in ("a", "b")]
    outcomes = TaskWorker(queue, tmp_path, threads=threads).run(claims, "r")
    assert set(outcomes.values()) == {"completed"}
    assert max(seen) == most


def test_tasks_take_turns_and_sweeps_come_last(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    load = CandleStore.load

    def loaded(self: CandleStore, symbol: str, *args: Any, **named: Any) -> Any:
        order.append(symbol)
        return load(self, symbol, *args, **named)

    monkeypatch.setattr(CandleStore, "load", loaded)
    claims = [claim_of("s", "KRW-XRP", grid={"every": [2]}), claim_of("a", *SYMBOLS[:3]), claim_of("b", "KRW-ETH")]
    TaskWorker(queue, tmp_path, threads=1).run(claims, "r")
    assert order == ["KRW-ADA", "KRW-ETH", "KRW-BTC", "KRW-ETH", "KRW-XRP"]


# ---- whoever follows the run


def test_a_follower_hears_of_progress_and_of_every_outcome_once(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[float, str, float, Any]] = []
    queue.states["void"], queue.attempts["void"] = "cancelled", 1
    queue.asked["c"] = Signal.CANCEL

    def follow(task_id: str, progress: float, outcome: Any) -> None:
        assert threading.current_thread() is threading.main_thread()
        said.append((time.monotonic(), task_id, progress, outcome))

    # A fifth of a second a slice: more is to be heard than may be said.
    at_bar(monkeypatch, lambda bar: threading.Event().wait(0.2))
    claims = [claim_of("a", "KRW-ADA", "KRW-BTC"), claim_of("void"), claim_of("c"), claim_of("bad", "KRW-NONE")]
    outcomes = TaskWorker(queue, tmp_path, threads=2).run(claims, "r", follow=follow)
    assert outcomes == {"a": "completed", "void": "lost", "c": "cancelled", "bad": "failed"}
    assert {task_id: end for _, task_id, _, end in said if end is not None} == outcomes
    assert sum(end is not None for *_, end in said) == len(outcomes), "each once"
    for name in outcomes:
        of_task = [(at, share, end) for at, task_id, share, end in said if task_id == name]
        assert of_task[-1][2] == outcomes[name], "the outcome comes last"
        shares = [share for _, share, end in of_task if end is None]
        assert shares == sorted(set(shares)), "only what has changed"
        times = [at for at, _, end in of_task if end is None]
        assert all(later - earlier >= 0.249 for earlier, later in pairwise(times)), "and the outcome: five a second"
    assert len([1 for _, name, share, _ in said if name == "a" and 0 < share < 1]) >= 2


def test_a_follower_that_fails_loses_no_task(
    tmp_path: Path, lake: CandleStore, queue: MemoryQueue, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[Any] = []

    def follow(task_id: str, progress: float, outcome: Any) -> None:
        said.append(outcome)
        raise ValueError("the event log is away")

    claims = [claim_of("a", "KRW-ADA"), claim_of("b", "KRW-BTC")]
    assert set(TaskWorker(queue, tmp_path).run(claims, "r", follow=follow).values()) == {"completed"}
    assert said.count("completed") == 2
    assert "the event log is away" in caplog.text


# ---- the real queue


def submitted(queue: TaskQueue, *claims: Claim) -> list[Claim]:
    for claim in claims:
        queue.submit(claim.request)
    return queue.claim(run_key="key")


def test_the_real_queue(tmp_path: Path, lake: CandleStore, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = TaskQueue(database)
    good, doomed, missing = submitted(queue, claim_of("a"), claim_of("b", params={"every": 7}), claim_of("c", "KRW-NO"))

    def cancel(bar: int) -> None:
        if not queue.get(doomed.task_id).cancel_requested:
            queue.cancel(doomed.task_id, "not needed")

    at_bar(monkeypatch, cancel)
    outcomes = TaskWorker(queue, tmp_path, threads=2).run([good, doomed, missing], "run-1")
    assert outcomes == {good.task_id: "completed", doomed.task_id: "cancelled", missing.task_id: "failed"}
    assert {name: queue.get(name).state for name in outcomes} == outcomes
    task = queue.get(good.task_id)
    assert (task.progress, task.run_id) == (1.0, "run-1")
    assert Path(task.path or "") == TaskStore(tmp_path).load(good.task_id).folder
    assert queue.get(missing.task_id).error_class == "NoCandles"
    assert not (tmp_path / "tasks" / doomed.task_id).exists()
    index = {row.id: row for row in ResultIndex(database).list()}
    assert set(index) == {good.task_id, missing.task_id}
    assert {name: (row.status, row.start_date is None) for name, row in index.items()} == {
        good.task_id: ("completed", False),
        missing.task_id: ("failed", True),
    }


def test_texts_postgres_does_not_take_lose_no_task(
    tmp_path: Path, lake: CandleStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(bar: int) -> None:
        raise ValueError("no\0byte and \ud800 no half")

    at_bar(monkeypatch, odd)
    queue = TaskQueue(database)
    (claim,) = submitted(queue, claim_of("a", "KRW-BTC"))
    assert TaskWorker(queue, tmp_path).run([claim], "r") == {claim.task_id: "failed"}
    assert ResultIndex(database).get(claim.task_id).error == "ValueError: no\ufffdbyte and ? no half"


def test_a_connection_that_is_dropped_in_the_middle_of_a_report(
    tmp_path: Path, lake: CandleStore, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The report waits for a lock when its connection goes; the task is completed over the next one."""
    queue = TaskQueue(database)
    (claim,) = submitted(queue, claim_of("a", "KRW-BTC"))
    waiting = sa.text(
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    dropped: list[int] = []

    def drop(bar: int) -> None:
        if bar != 20:
            return
        admin = database.engine.execution_options(isolation_level="AUTOCOMMIT")
        with database.session() as session, admin.connect() as other:
            session.execute(sa.text("SELECT id FROM catalog.tasks FOR UPDATE"))
            until(lambda: dropped.extend(other.scalars(waiting)) or dropped)
            other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": dropped[0]})
            until(lambda: "cannot be reported now" in caplog.text)

    at_bar(monkeypatch, drop)
    assert TaskWorker(queue, tmp_path).run([claim], "r") == {claim.task_id: "completed"}
    assert queue.get(claim.task_id).state == "completed"
    assert dropped
