"""How rows are shown: as text while they are measured, and as the Markdown of docs/benchmarks.md."""

from __future__ import annotations

import ast
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.baseline import regression
from benchmarks.measure import Row
from benchmarks.results import Measured

_VERSIONS = ("numba", "numpy", "pandas", "pyarrow", "TA-Lib", "dagster")


def machine() -> str:
    """On what and with what is measured."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in _VERSIONS)
    return (
        f"{os.cpu_count()} cores of {models[0] if models else platform.machine()}, "
        f"{memory:.0f} GiB, Python {platform.python_version()}, {versions}; load at the start {os.getloadavg()[0]:.1f}"
    )


def number(value: float) -> str:
    """A figure with three places that count."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1e-3 else f"{value:.1e}"


def _limit(row: Row) -> str:
    return "" if row.limit is None else f"{'>=' if row.at_least else '<='} {row.limit:,g}"


def _distance(row: Row) -> str:
    return f"{row.value / row.bound:.1f}x" if row.bound else ""


class Text:
    """One line a row."""

    def heading(self, name: str, doc: str) -> None:
        print(f"\n{name}: {doc.splitlines()[0]}")

    def row(self, row: Row, verdict: str, worse: str) -> None:
        measured = f"{number(row.value)} {row.unit}"
        of_bound = f"{_distance(row)} its bound" if row.bound else ""
        notes = ", ".join(filter(None, (worse, of_bound, row.note)))
        print(f"  {row.name:<62}{measured:>14}  {_limit(row):>9}  {verdict:<4}  {notes}", flush=True)


def markdown(entries: Mapping[str, Measured | None], baseline: Mapping[str, float]) -> str:
    """A section and a table for each benchmark; on what it was measured stands where it changes."""
    parts, before = [], ""
    for name, entry in entries.items():
        parts += [f"### {name}", docstring(name)]
        if entry is None:
            parts.append(f"Not measured yet: `python -m benchmarks {name}`.")
            continue
        of = f", commit {entry.commit}" if entry.commit else ""
        about = f"{entry.at:%Y-%m-%d}{of}, {entry.machine}."
        parts += [about] if about != before else []
        before = about
        parts.append(
            "\n".join([f"| what | measured | limit | | bound | distance | |\n{'|---' * 7}|", *_lines(entry, baseline)])
        )
    return "\n\n".join(parts)


def docstring(name: str) -> str:
    """What a benchmark measures; read without importing it, which would compile its kernels."""
    return ast.get_docstring(ast.parse((Path(__file__).parent / f"{name}.py").read_text())) or ""


def _lines(entry: Measured, baseline: Mapping[str, float]) -> Iterator[str]:
    bound_by = ""
    for row in entry.rows:
        least = f"{number(row.bound)} {row.unit}" if row.bound else ""
        # What a bound is stands where it changes.
        if row.bound and row.bound_by != bound_by:
            bound_by = row.bound_by
            least += f": {row.bound_by}"
        worse = regression(row, baseline)
        verdict = "FAIL" if worse or not row.ok else "PASS" if row.limit is not None else ""
        notes = ", ".join(filter(None, (worse, row.note)))
        cells = (row.name, f"{number(row.value)} {row.unit}", _limit(row), verdict, least, _distance(row), notes)
        yield f"| {' | '.join(cells)} |"
