"""Ctrl-C and SIGKILL in the middle of `coin-hts run`: nothing half-written, and the next run mends and completes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coin_hts_pipelines.operations.embedded_postgres import find_server
from coin_hts_pipelines_tests.conftest import BIN, Project
from coin_hts_pipelines_tests.integration.helpers import (
    STRATEGIES,
    assert_exported,
    candle_files,
    claimed_slots,
    leftovers,
    query,
    run_statuses,
    wait_until,
)

SYMBOLS = [f"KRW-T{number:02d}" for number in range(9)]
ARGV = ("run", "--symbols", ",".join(SYMBOLS), "--timeframes", "1H", "--start", "2024-07-01", "--end", "2025-06-30")
LAYER_SECONDS = 90


@dataclass
class Running:
    """`coin-hts run` at work, in a process group of its own as a shell would start it."""

    process: subprocess.Popen[str]
    errors: Path

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal to the group; return the exit status and what stood on standard error."""
        os.killpg(self.process.pid, number)
        return self.finish()

    def finish(self) -> tuple[int, str]:
        """Wait for it."""
        return self.process.wait(timeout=60), self.errors.read_text()


@pytest.fixture
def start(project: Project, tmp_path: Path) -> Iterator[Callable[[], Running]]:
    """Start the run; whatever is still there at the end of the test is killed."""
    started: list[Running] = []
    # A background job of a shell has SIGINT ignored and hands that down.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)

    def begin() -> Running:
        errors = tmp_path / f"stderr{len(started)}"
        with errors.open("w") as stream:
            process = subprocess.Popen(
                [BIN / "coin-hts", *ARGV],
                cwd=project.home,
                env=project.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                text=True,
                start_new_session=True,
            )
        started.append(Running(process, errors))
        return started[-1]

    yield begin
    signal.signal(signal.SIGINT, kept)
    for running in started:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()


@pytest.fixture
def emptied(project: Project) -> Project:
    """The project without candles and results; its instance remembers earlier runs."""
    for path in project.data.glob("*"):
        if path.name not in ("postgres", "dagster"):
            shutil.rmtree(path)
    return project


def reach(project: Project, running: Running, pattern: str) -> None:
    """Wait until the run has written the first file of a layer."""

    def reached() -> bool:
        assert running.process.poll() is None, f"it ended before: {running.errors.read_text()}"
        return next(project.data.glob(pattern), None) is not None

    wait_until(reached, LAYER_SECONDS, f"no {pattern}")


def assert_complete(project: Project) -> None:
    """Every symbol has candles, and every preset's result on it is whole and exported."""
    assert len({Path(name).parts[0] for name in candle_files(project)}) == len(SYMBOLS)
    for symbol in SYMBOLS:
        for strategy in STRATEGIES:
            assert_exported(project, "1H", f"{strategy}_1h", symbol)
    assert leftovers(project) == []
    assert claimed_slots(project) == []


LAYER_FILES = {
    "candles": "KRW-*/1H/*.parquet",
    "backtests": "results/1H/*/*/CURRENT",
    "exports": "exports/backtests/1H/*/*/manifest.json",
}


@pytest.mark.parametrize("layer", ["candles", "backtests", "exports"])
def test_ctrl_c(layer: str, emptied: Project, start: Callable[[], Running]) -> None:
    old = set(run_statuses(emptied)) if find_server(emptied.data / "postgres") else set()
    running = start()
    reach(emptied, running, LAYER_FILES[layer])
    status, errors = running.end(signal.SIGINT)
    assert status == 130
    assert errors.splitlines()[-1] == "interrupted; runs of this command are canceled and nothing is half-written"
    assert "Traceback" not in errors
    new = [status for run, status in run_statuses(emptied).items() if run not in old]
    assert new[-1] == "CANCELED"
    assert set(new[:-1]) <= {"SUCCESS"}
    assert claimed_slots(emptied) == []
    assert leftovers(emptied) == []
    assert not list(emptied.data.glob("exports/.store/tmp/*"))
    for current in emptied.data.glob("results/*/*/*/CURRENT"):
        assert (current.parent / current.read_text().strip() / "manifest.json").is_file()


def test_the_next_run_completes(project: Project, start: Callable[[], Running]) -> None:
    status, errors = start().finish()
    assert status == 0, errors
    assert_complete(project)


def test_killed(emptied: Project, start: Callable[[], Running]) -> None:
    old = set(run_statuses(emptied))
    running = start()
    reach(emptied, running, LAYER_FILES["backtests"])
    assert running.end(signal.SIGKILL)[0] == -signal.SIGKILL
    orphans = [run for run, status in run_statuses(emptied).items() if status == "STARTED"]
    assert len(orphans) == 1
    assert [run for _, run in claimed_slots(emptied)] == orphans

    status, errors = start().finish()
    assert status == 0, errors
    statuses = run_statuses(emptied)
    assert statuses[orphans[0]] == "FAILURE"
    assert Counter(status for run, status in statuses.items() if run not in {*old, *orphans}).keys() == {"SUCCESS"}
    reasons = query(
        emptied,
        "SELECT event FROM dagster.event_logs WHERE run_id = %s AND dagster_event_type = 'PIPELINE_FAILURE'",
        orphans[0],
    )
    assert "the process of this run ended without finishing it" in reasons[0][0]
    assert_complete(emptied)


def test_postgres_killed(emptied: Project, start: Callable[[], Running]) -> None:
    running = start()
    reach(emptied, running, LAYER_FILES["backtests"])
    server = find_server(emptied.data / "postgres")
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    status, errors = running.finish()
    assert status == 1
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("error: Postgres at ")
    assert "cannot be reached" in errors.splitlines()[-1]
    assert leftovers(emptied) == []

    status, errors = start().finish()
    assert status == 0, errors
    assert "STARTED" not in run_statuses(emptied).values()
    assert_complete(emptied)
