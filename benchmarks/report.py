"""How rows are shown: as text while they are measured, or as the Markdown of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import Row

_VERSIONS = ("numba", "numpy", "pandas", "pyarrow", "TA-Lib", "dagster")


def _machine() -> str:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in _VERSIONS)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of {models[0] if models else platform.machine()}, "
        f"{memory:.0f} GiB, Python {platform.python_version()}, {versions}; load at the start {os.getloadavg()[0]:.1f}."
    )


def _number(value: float) -> str:
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1e-3 else f"{value:.1e}"


def _limit(row: Row) -> str:
    return "" if row.limit is None else f"{'>=' if row.at_least else '<='} {row.limit:,g}"


def _distance(row: Row) -> str:
    return f"{row.value / row.bound:.1f}x" if row.bound else ""


class Text:
    """One line a row."""

    def machine(self) -> None:
        print(_machine())

    def heading(self, name: str, doc: str) -> None:
        print(f"\n{name}: {doc.splitlines()[0]}")

    def row(self, row: Row, verdict: str, worse: str) -> None:
        measured = f"{_number(row.value)} {row.unit}"
        of_bound = f"{_distance(row)} its bound" if row.bound else ""
        notes = ", ".join(filter(None, (worse, of_bound, row.note)))
        print(f"  {row.name:<62}{measured:>14}  {_limit(row):>9}  {verdict:<4}  {notes}", flush=True)


class Markdown:
    """A section and a table for each benchmark; what a bound is stands where it changes."""

    def __init__(self) -> None:
        self._bound_by = ""

    def machine(self) -> None:
        print(f"\n{_machine()}")

    def heading(self, name: str, doc: str) -> None:
        self._bound_by = ""
        print(f"\n### {name}\n\n{doc}\n\n| what | measured | limit | | bound | distance | |\n{'|---' * 7}|")

    def row(self, row: Row, verdict: str, worse: str) -> None:
        least = f"{_number(row.bound)} {row.unit}" if row.bound else ""
        if row.bound and row.bound_by != self._bound_by:
            self._bound_by = row.bound_by
            least += f": {row.bound_by}"
        notes = ", ".join(filter(None, (worse, row.note)))
        cells = (row.name, f"{_number(row.value)} {row.unit}", _limit(row), verdict, least, _distance(row), notes)
        print(f"| {' | '.join(cells)} |", flush=True)
