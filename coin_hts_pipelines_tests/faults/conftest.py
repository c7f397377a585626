"""A real instance to be broken: embedded Postgres, a daemon with its code server, and workers, each a process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.operations.embedded_postgres import find_server, server_url
from coin_hts_pipelines.results.manifest import MANIFEST
from coin_hts_pipelines.results.task_store import TaskStore
from coin_hts_pipelines.tasks.dead_letters import DeadLetters
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.task import FINAL, Task, TaskRequest
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.conftest import BIN, Project, make_project
from coin_hts_pipelines_tests.integration.helpers import processes_in, query, wait_until

LOST_SECONDS = 6
ENDED_SECONDS = 150
HEAVY_SYMBOLS = ("KRW-H0", "KRW-H1", "KRW-H2", "KRW-H3")
HEAVY_BARS, LIGHT_BARS = 60_000, 365


def heavy(**changes: object) -> TaskRequest:
    """A sweep of some seconds: time enough to be struck in the middle."""
    grid = {"volume_window": {"low": 10, "high": 259, "step": 1}, "breakout_buffer": [0.0, 0.01]}
    backtest = BacktestRequest("volume_zone_breakout", timeframe="1M")
    return TaskRequest(backtest, HEAVY_SYMBOLS, grid=grid, **changes)  # type: ignore[arg-type]


def light(symbol: str = "KRW-L0", **changes: object) -> TaskRequest:
    """One small backtest."""
    return TaskRequest(BacktestRequest("volume_long_candle"), (symbol,), **changes)  # type: ignore[arg-type]


@dataclass
class Instance:
    """A project whose daemon can be started and killed; the queue is seen from outside."""

    project: Project
    queue: TaskQueue
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def store(self) -> TaskStore:
        return TaskStore(self.project.data)

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """Start `dagster-daemon`; there must be no other."""
        dotenv = (self.project.home / ".env").read_text().splitlines()
        variables = dict(line.split("=", 1) for line in dotenv if "=" in line and not line.startswith("#"))
        environment = self.project.environment(
            **{name: value.strip("'") for name, value in variables.items()},
            COIN_HTS_TASK_LOST_SECONDS=str(LOST_SECONDS),
        )
        # An interrupt during coverage's own bookkeeping can leave its lock taken.
        environment = {name: value for name, value in environment.items() if not name.startswith("COV")}
        with (self.project.home / "daemon.log").open("ab") as log:
            daemon = subprocess.Popen(
                [BIN / "dagster-daemon", "run", "-w", "workspace.yaml"],
                cwd=self.project.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.daemons.append(daemon)
        return daemon

    @property
    def daemon(self) -> subprocess.Popen[bytes]:
        return self.daemons[-1]

    def log(self) -> str:
        return (self.project.home / "daemon.log").read_text()[-5000:]

    def until_running(self, task_id: str, progress: float = 0.0) -> Task:
        """Wait until a worker has begun, and done so much."""

        def looked() -> Task | None:
            task = self.queue.get(task_id)
            assert task.state not in FINAL, f"{task.state} before it could be struck: {task.error}"
            return task if task.state == "running" and task.progress >= progress else None

        return wait_until(looked, ENDED_SECONDS, f"task {task_id} running")  # type: ignore[no-any-return]

    def until_final(self, task_ids: Sequence[str], seconds: float = ENDED_SECONDS) -> dict[str, Task]:
        """Wait until all tasks have ended."""

        def looked() -> dict[str, Task] | None:
            tasks = {task.id: task for task in self.queue.list(ids=task_ids, limit=None)}
            return tasks if all(task.state in FINAL for task in tasks.values()) else None

        try:
            return wait_until(looked, seconds, "final states", pause=0.1)  # type: ignore[no-any-return]
        except AssertionError:
            print(self.log())
            raise

    def digest(self, task_id: str) -> str:
        """Result digest of a finished task, every file of it checked."""
        return self.store.load(task_id).manifest.result_digest

    def partitions(self) -> set[str]:
        rows = query(
            self.project, "SELECT partition FROM dagster.dynamic_partitions WHERE partitions_def_name = 'tasks'"
        )
        return {partition for (partition,) in rows}

    def unfinished_runs(self) -> list[tuple[object, ...]]:
        return query(
            self.project,
            "SELECT run_id, status FROM dagster.runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')",
        )

    def assert_clean(self) -> None:
        """No task, run, file or partition that belongs to nobody; what takes the reconciler a while is waited for."""
        tasks = {task.id: task for task in self.queue.list(limit=None)}
        assert all(task.state in FINAL for task in tasks.values())
        left = {task_id for task_id, task in tasks.items() if task.state in ("completed", "failed")}
        started = {task_id for task_id in left if tasks[task_id].attempts > 0}
        try:
            wait_until(lambda: not self.unfinished_runs(), 90, "the end of all runs", pause=0.2)
            wait_until(lambda: self.partitions() == started, 60, "partitions of finished tasks alone", pause=0.2)
        except AssertionError:
            print(self.log(), self.unfinished_runs(), self.partitions() ^ started)
            raise
        assert set(self.store.ids()) <= left
        for task_id in self.store.ids():
            stored = self.store.load(task_id)
            files = {str(path.relative_to(stored.folder)) for path in stored.folder.rglob("*") if path.is_file()}
            assert files == {MANIFEST, *(entry.name for entry in stored.manifest.files)}
        letters = {letter.task_id for letter in DeadLetters(self.queue).list(limit=None)}
        assert letters == {task_id for task_id in left if tasks[task_id].state == "failed"}


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def worker_pid(task: Task) -> int:
    """Process of a task's worker."""
    assert task.worker is not None
    host, _, pid = task.worker.rpartition(":")
    assert host == socket.gethostname()
    return int(pid)


@pytest.fixture(scope="session")
def world() -> Iterator[Instance]:
    """An instance with a daemon and candles."""
    home = Path(tempfile.mkdtemp(prefix="hts-"))
    project = make_project(home)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        done = project.coin_hts("setup")
        assert done.returncode == 0, done.stderr
        server = find_server(project.data / "postgres")
        assert server is not None
        candles = CandleStore(project.data)
        for seed, symbol in enumerate(HEAVY_SYMBOLS):
            candles.merge(symbol, "1M", random_walk(HEAVY_BARS, seed, timeframe="1M"), source="sample")
        candles.merge("KRW-L0", "1D", random_walk(LIGHT_BARS, 7), source="sample")
        database = Database(server_url(server.socket_dir, server.port), pool_size=2)
        made = Instance(project, TaskQueue(database), daemons)
        made.start_daemon()
        try:
            yield made
        finally:
            database.dispose()
    finally:
        for pid in processes_in(home):
            kill(pid)
        for daemon in daemons:
            daemon.wait()
        project.coin_hts("db", "stop")
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def instance(world: Instance) -> Instance:
    """The instance, and a daemon that runs."""
    if world.daemon.poll() is not None:
        world.start_daemon()
    return world


@pytest.fixture(scope="session")
def undisturbed(world: Instance) -> dict[str, str]:
    """Result digests of the two requests when nothing goes wrong."""
    ids = {"heavy": world.queue.submit(heavy()).id, "light": world.queue.submit(light()).id}
    tasks = world.until_final(list(ids.values()))
    assert {task.state for task in tasks.values()} == {"completed"}
    return {name: world.digest(task_id) for name, task_id in ids.items()}
