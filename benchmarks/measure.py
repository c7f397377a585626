"""How the benchmarks measure: whole processes from outside, calls from inside, each against its limit."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Row:
    """One measured figure: `value` must not be above `limit`."""

    name: str
    value: float
    limit: float
    unit: str
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.value <= self.limit


@dataclass(frozen=True)
class Finished:
    """A finished process: wall seconds and the memory of its largest process in MB."""

    seconds: float
    peak_mb: float


def run_process(argv: list[str], cwd: Path) -> Finished:
    """Run a command to its end; a failure ends the benchmark with its output."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("COIN_HTS_", "DAGSTER_"))}
    env["PATH"] = f"{BIN}{os.pathsep}{env['PATH']}"
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(argv, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(argv)} failed:\n{output.read().decode()}")
    return Finished(seconds, usage.ru_maxrss / 1024)


def median_seconds(call: Callable[[], object], *, times: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    call()
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


@contextmanager
def scratch_project() -> Iterator[Path]:
    """Yield a folder like a fresh clone, with an embedded Postgres of its own that is stopped at the end."""
    # A short path: the name of a Unix socket is limited to 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="hts-bench-"))
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, home / name)
    try:
        yield home
    finally:
        subprocess.run([BIN / "coin-hts", "db", "stop"], cwd=home, check=False, capture_output=True)
        shutil.rmtree(home, ignore_errors=True)
