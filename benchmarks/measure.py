"""How the benchmarks measure: whole processes from outside, calls from inside, each row against its limit.

Standard library only: the engines of the peers' environment import it too.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Row:
    """One measured figure.

    `limit` must not be passed (None: shown only); with `at_least` the value must reach it instead. `ratio` is the
    processor time over that of a reference loop (benchmarks.reference), kept in the baseline. `bound` is what the same
    work costs at the very least on this machine, in the unit of the value; `bound_by` says what that least work is.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    ratio: float | None = None
    bound: float | None = None
    bound_by: str = ""
    note: str = ""

    @property
    def ok(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Timing:
    """Median wall seconds of a call, and the ratio of its least processor time to that of a reference."""

    seconds: float
    ratio: float


@dataclass(frozen=True)
class Finished:
    """A finished process: wall seconds and the memory of its largest process in MB."""

    seconds: float
    peak_mb: float


# A process started from a large one counts as that large: the kernel carries the peak over. So a small one starts it.
_LAUNCHER = """
import resource, subprocess, sys, time
started = time.perf_counter()
status = subprocess.call(sys.argv[2:])
seconds = time.perf_counter() - started
with open(sys.argv[1], "w") as file:
    print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, file=file)
sys.exit(status)
"""


def run_process(argv: Sequence[str | Path], cwd: Path) -> Finished:
    """Run a command to its end; a failure ends the benchmark with its output."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("COIN_HTS_", "DAGSTER_"))}
    env["PATH"] = f"{BIN}{os.pathsep}{env['PATH']}"
    with tempfile.NamedTemporaryFile("r") as report:
        launcher = [sys.executable, "-IS", "-c", _LAUNCHER, report.name, *argv]
        done = subprocess.run(launcher, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, argv))} failed:\n{done.stdout.decode()}")
        seconds, peak_mb = map(float, report.read().split())
    return Finished(seconds, peak_mb)


def own_peak_mb() -> float:
    """Peak memory of this process; not `ru_maxrss`, which a process takes over from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def median_seconds(call: Callable[[], object], *, times: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    call()
    return statistics.median(seconds_of(call) for _ in range(times))


def least_seconds(call: Callable[[], object], *, times: int) -> float:
    """Least seconds of a call, after one that is not counted: for bounds, which no noise may raise."""
    call()
    return min(seconds_of(call) for _ in range(times))


def processor_seconds() -> float:
    """Processor time of this process, its threads and the processes it has waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def against(call: Callable[[], object], reference: Callable[[], object], *, times: int) -> Timing:
    """Time a call and a reference in turn, after one of each that is not counted.

    The seconds are the median of the wall clock. The ratio is of processor time, so that it stays where other work
    takes the processor away, and of the least of each, since noise never makes a call faster. A call shorter than the
    reference is repeated until it is about as long.
    """
    call(), reference()
    repeats = max(1, round(seconds_of(reference) / seconds_of(call)))
    spent, references, calls = [], [], []
    for _ in range(times):
        begun = processor_seconds()
        reference()
        between = processor_seconds()
        spent.append(seconds_of(lambda: [call() for _ in range(repeats)]) / repeats)
        references.append(between - begun)
        calls.append((processor_seconds() - between) / repeats)
    return Timing(statistics.median(spent), min(calls) / min(references))


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, and threads it starts, on one core: for ratios of what uses threads.

    On several cores threads that pass the interpreter's lock to and fro cost half as much again, or not, for as long
    as the process lives (measured on the sweeps).
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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
