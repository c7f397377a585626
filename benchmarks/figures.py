"""Figures in the documents are written from what was measured: `python -m benchmarks.figures [--check]`.

What stands between `<!-- figures:NAME -->` and `<!-- /figures -->`, each on a line of its own, is what a function here
makes of `benchmarks/results.json`, of the benchmarks themselves and of `docs/reports/readiness.json`: nobody types it.
Only committed files are read, so everybody gets the same, and CI fails where a document is not current.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import baseline, report, results
from benchmarks.measure import CHECKOUT

_MARK = re.compile(r"^<!-- (?:figures:(?P<name>\S+)|(?P<end>/figures)) -->$")


class WrongMarks(Exception):
    """Marks of a document that do not fit, or figures that nobody knows."""


def documents(root: Path = CHECKOUT) -> list[Path]:
    """Every document that may have figures."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def renewed(text: str, name: str, renderers: Mapping[str, Callable[[], str]]) -> str:
    """Text with its figures as they are now; `name` is that of the document.

    Raises
    ------
    WrongMarks
        If a mark has no partner or stands inside figures, or if figures are unknown; the message has the line.
    """
    kept: list[str] = []
    inside: tuple[int, str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        mark = _MARK.match(line)
        if mark is None:
            kept += [line] if inside is None else []
        elif mark["end"]:
            if inside is None:
                raise WrongMarks(f"{name}:{number}: figures end here, but they began nowhere")
            kept += [renderers[inside[1]](), line]
            inside = None
        elif inside is not None:
            raise WrongMarks(f"{name}:{inside[0]}: the figures {inside[1]} do not end before others begin")
        elif mark["name"] not in renderers:
            raise WrongMarks(f"{name}:{number}: figures {mark['name']} are unknown; known: {', '.join(renderers)}")
        else:
            inside = number, mark["name"]
            kept.append(line)
    if inside is not None:
        raise WrongMarks(f"{name}:{inside[0]}: the figures {inside[1]} have no end; it is <!-- /figures -->")
    return "\n".join(kept) + "\n"


# ---- what there is


def benchmark_tables() -> str:
    """Every row that was measured."""
    return f"\n{report.markdown(results.load(), baseline.load())}\n"


def speed() -> str:
    """The figures of the README."""
    entries = results.load()

    def of(benchmark: str, row: str) -> str:
        entry = entries[benchmark]
        if entry is None:
            return "(not measured)"
        found = [one for one in entry.rows if one.name == row]
        if not found:
            raise WrongMarks(f"the README needs the row {row!r} of {benchmark}, which was not measured")
        return f"{report.number(found[0].value)} {found[0].unit}"

    def times(engine: str) -> str:
        entry = entries["peers_backtest"]
        rows = () if entry is None else entry.rows
        found = sorted(one.value for one in rows if one.name.startswith(f"faster than {engine},"))
        return " to ".join(report.number(one) for one in (found[0], found[-1])) if found else "(not measured)"

    sweep = "sweep, 1,000 combinations x 10,000 bars"
    machine = next((entry.machine for entry in entries.values() if entry), "nothing yet").partition(",")[0]
    return f"""\
Measured on {machine} (`make bench`, [docs/benchmarks.md](docs/benchmarks.md)):

- first `make run` after the install {of("commands", "make run, first (after install)")}, second \
{of("commands", "make run, second")}; 100 symbols x 365 days from files through both presets, rankings and exports \
{of("hundred_symbols", "100 symbols x 365 days, everything")} and \
{of("hundred_symbols", "100 symbols x 365 days, memory")};
- one backtest of 1,000 bars with its tables {of("backtest_small", "run_backtest, 1,000 bars, volume_zone_breakout")}, \
of a year of minutes {of("backtest_year", "run_backtest, 525,600 bars")};
- a sweep of 1,000 combinations over 10,000 bars {of("peers_sweep", f"{sweep}, ours")} and \
{of("peers_sweep", "its memory, ours")} (vectorbt: {of("peers_sweep", f"{sweep}, vectorbt")} and \
{of("peers_sweep", "its memory, vectorbt")}; backtesting.py: {of("peers_sweep", f"{sweep}, backtesting")});
- on the same signals one backtest with its statistics is {times("vectorbt")} times as fast as vectorbt and \
{times("backtesting.py")} times as backtesting.py; that trades, equity and ratios are vectorbt's is a test \
(`make test-peers`)."""


def readiness(file: Path = CHECKOUT / "docs" / "reports" / "readiness.json") -> str:
    """How the last readiness report that was committed ended."""
    if not file.exists():
        return "No readiness report is committed; `coin-hts readiness` writes one."
    found = json.loads(file.read_text())
    passed = sum(gate["passed"] for gate in found["gates"])
    counts = ", ".join(f"{number} {severity}" for severity, number in found["issues_by_severity"].items())
    return (
        f"The last [readiness report](docs/reports/readiness.md) ({found['at'][:10]}): **{found['decision']}**, "
        f"{passed} of {len(found['gates'])} gates passed; open: {counts}."
    )


RENDERERS: dict[str, Callable[[], str]] = {"benchmarks": benchmark_tables, "speed": speed, "readiness": readiness}


def main() -> int:
    """Write the figures of every document, or say which are not current."""
    parser = argparse.ArgumentParser("python -m benchmarks.figures", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where one is not current")
    check = parser.parse_args().check
    old = False
    for path in documents():
        name, text = str(path.relative_to(CHECKOUT)), path.read_text()
        try:
            new = renewed(text, name, RENDERERS)
        except WrongMarks as error:
            print(error, file=sys.stderr)
            return 1
        if new == text:
            continue
        old = True
        if check:
            print(f"{name}: its figures are not current; run make figures", file=sys.stderr)
        else:
            path.write_text(new)
            print(f"{name}: written anew")
    return 1 if old and check else 0


if __name__ == "__main__":
    sys.exit(main())
