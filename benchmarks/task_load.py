"""1,000 tasks submitted by 8 processes at once to an instance with a daemon: none lost, none run twice, all final."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from benchmarks.measure import BIN, Row, run_process, scratch_project, seconds_of
from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.sources import SampleSource
from coin_hts_pipelines.market import Timeframe, parse_span
from coin_hts_pipelines.operations.embedded_postgres import find_server, server_url
from coin_hts_pipelines.tasks import Task, TaskQueue, TaskRequest
from coin_hts_pipelines.tasks.task import FINAL

TASKS, PROCESSES, DUPLICATES, SYMBOLS = 1000, 8, 100, 8
DAYS = ("2024-07-01", "2025-06-30")
MINUTES = ("2025-01-01", "2025-04-30")
ALL_FINAL_SECONDS = 600


def _request(number: int) -> TaskRequest:
    strategy = ("volume_zone_breakout", "volume_long_candle")[number % 2]
    return TaskRequest(BacktestRequest(strategy), (f"KRW-T{number % SYMBOLS}",), *DAYS)


def _long_request() -> TaskRequest:
    grid = {"volume_window": {"low": 10, "high": 1000, "step": 1}}
    return TaskRequest(BacktestRequest("volume_zone_breakout", timeframe="1M"), ("KRW-T0",), grid=grid)


def _submit(url: str, numbers: range, begin: object, answers: object) -> None:
    """Submit tasks, each with its key; the seconds of each call."""
    queue = TaskQueue(Database(url, pool_size=1))
    queue.list(limit=1)
    begin.wait()  # type: ignore[attr-defined]
    taken = [seconds_of(lambda i=i: queue.submit(_request(i), idempotency_key=f"load-{i}")) for i in numbers]
    answers.put(taken)  # type: ignore[attr-defined]


def _submit_at_once(url: str) -> list[float]:
    """Submit by several processes; the last of them repeats the keys of the first."""
    spawn = multiprocessing.get_context("spawn")
    begin, answers, share = spawn.Barrier(PROCESSES), spawn.Queue(), TASKS // PROCESSES
    numbers = [range(i * share, (i + 1) * share) for i in range(PROCESSES)]
    workers = [spawn.Process(target=_submit, args=(url, part, begin, answers)) for part in numbers]
    for worker in workers:
        worker.start()
    taken = [seconds for _ in workers for seconds in answers.get(timeout=120)]
    for worker in workers:
        worker.join()
    return taken


@contextmanager
def _daemon(home: Path) -> Iterator[None]:
    """The daemon of the project, as `coin-hts up` has it, without the web server."""
    pairs = [line.split("=", 1) for line in (home / ".env").read_text().splitlines() if line[:1] not in ("#", "")]
    variables = {name: value.strip("'") for name, value in pairs}
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (home / "daemon.log").open("wb") as log:
        argv = [BIN / "dagster-daemon", "run", "-w", "workspace.yaml"]
        daemon = subprocess.Popen(argv, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(60)
        finally:
            # Whatever of its code server and workers is left has its process group.
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)


def _wait(queue: TaskQueue, seconds: float) -> list[Task]:
    """Wait until every task is final, at most so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with queue.database.session() as session:
            left = session.scalar(sa.text("SELECT count(*) FROM catalog.tasks WHERE finished_at IS NULL"))
        if not left:
            break
        time.sleep(0.2)
    return queue.list(limit=None)


def _seconds(task: Task, name: str) -> float:
    at = getattr(task, name)
    return (at - task.created_at).total_seconds() if at else float("inf")


def _until_running(queue: TaskQueue, task_id: str) -> Task:
    while (task := queue.get(task_id)).state == "queued":
        time.sleep(0.05)
    return task


def _alone(queue: TaskQueue) -> Iterator[Row]:
    """One task on an idle machine, five times; then one that is cancelled at work, five times."""
    lone, cancelled = [], []
    for number in range(5):
        queue.submit(_request(number))
        lone.append(max(_wait(queue, 60), key=lambda task: task.created_at))
        long = queue.submit(_long_request())
        _until_running(queue, long.id)
        asked = time.monotonic()
        queue.cancel(long.id, "measured")
        while queue.get(long.id).state not in FINAL:
            time.sleep(0.02)
        cancelled.append(time.monotonic() - asked)
        time.sleep(number)  # so that the ticks of the sensor are met at different moments
    worst = {name: max(_seconds(task, name) for task in lone) for name in ("claimed_at", "started_at", "finished_at")}
    yield Row("idle: submit to claimed, worst of 5", worst["claimed_at"], "s", 3)
    yield Row("idle: submit to running, worst of 5", worst["started_at"], "s", 10)
    yield Row("idle: submit to completed, worst of 5", worst["finished_at"], "s")
    yield Row("cancel of a running sweep, worst of 5", max(cancelled), "s", 5)


def _load(queue: TaskQueue, url: str) -> Iterator[Row]:
    begun = time.monotonic()
    taken = _submit_at_once(url)
    submitted = time.monotonic() - begun
    duplicates = [queue.submit(_request(i), idempotency_key=f"load-{i}") for i in range(DUPLICATES)]
    tasks = [task for task in _wait(queue, ALL_FINAL_SECONDS) if (task.idempotency_key or "").startswith("load-")]
    seconds = max(_seconds(task, "finished_at") for task in tasks)
    states = Counter(task.state for task in tasks)
    with queue.database.session() as session:
        made = "SELECT count(*) FROM dagster.event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
        twice = session.scalar(
            sa.text(f"SELECT count(*) FROM ({made} GROUP BY partition HAVING count(*) > 1) AS found")
        )
    yield Row(f"submit, {PROCESSES} processes at once, p50", 1000 * statistics.median(taken), "ms")
    yield Row(f"submit, {PROCESSES} processes at once, p95", 1000 * statistics.quantiles(taken, n=20)[-1], "ms")
    yield Row("submit, tasks a second, processes started", TASKS / submitted, "/s")
    yield Row(f"tasks there are after {DUPLICATES} duplicates", len(tasks), "", TASKS, note=f"asked {len(duplicates)}")
    yield Row("tasks completed", states["completed"], "", TASKS, at_least=True, note=str(dict(states)))
    yield Row("tasks tried more than once", sum(task.attempts > 1 for task in tasks), "", 0)
    yield Row("tasks materialized more than once", float(twice or 0), "", 0)
    yield Row("until the last is completed", seconds, "s", ALL_FINAL_SECONDS)
    yield Row("tasks a second", TASKS / seconds, "/s", note=f"{len({task.run_id for task in tasks})} runs")


def rows() -> Iterator[Row]:
    """Measure an idle instance, then one under load."""
    with scratch_project() as home:
        run_process([BIN / "coin-hts", "setup"], home)
        source, candles = SampleSource(), CandleStore(home / "data")
        for number in range(SYMBOLS):
            symbol = f"KRW-T{number}"
            candles.merge(symbol, "1D", source.fetch(symbol, Timeframe.D1, parse_span(*DAYS)), source="sample")
        candles.merge("KRW-T0", "1M", source.fetch("KRW-T0", Timeframe.M1, parse_span(*MINUTES)), source="sample")
        server = find_server(home / "data" / "postgres")
        if server is None:
            sys.exit("the embedded Postgres does not run")
        url = server_url(server.socket_dir, server.port)
        database = Database(url, pool_size=2)
        try:
            queue = TaskQueue(database)
            with _daemon(home):
                queue.submit(_request(0))
                _wait(queue, 120)  # the daemon is up
                yield from _alone(queue)
                yield from _load(queue, url)
                submit = [BIN / "coin-hts", "task", "submit", "--strategy", "volume_long_candle", "--symbols", "KRW-T0"]
                taken = []
                for _ in range(9):
                    taken.append(run_process(submit, home).seconds)
                    _wait(queue, 120)
                    time.sleep(2)  # the run of the task ends a moment after it
                yield Row("coin-hts task submit, median of 9", statistics.median(taken), "s", 1)
        finally:
            database.dispose()
