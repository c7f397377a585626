"""What was measured before and left in files: results of tests, coverage, benchmarks.

Read here and judged in `operations.readiness`. A file that is missing or cannot be read, and results of tests that are
older than the code, are errors that say what to run; a benchmark, which takes an idle machine, counts for 30 days.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from coin_hts_pipelines.errors import PermanentError

PACKAGE, TESTS = "coin_hts_pipelines", "coin_hts_pipelines_tests"
REPORTS, RESULTS = Path("build/reports"), Path("benchmarks/results.json")
COVERAGE = REPORTS / "coverage.json"
RUN_TESTS = "run `make test`"
_CODE = (PACKAGE, TESTS)
_ALSO_CODE = ("pyproject.toml", "requirements.lock", "dagster.yaml")
_MADE = ("__pycache__",)

Outcome = Literal["passed", "failed", "error", "skipped"]


def newest_change(home: Path) -> datetime | None:
    """When a file of the code or of the tests was last changed; None where there is no code (an installed package)."""
    paths = [path for place in _CODE for path in (home / place).rglob("*") if not set(_MADE) & set(path.parts)]
    times = [path.stat().st_mtime for path in [*paths, *map(home.joinpath, _ALSO_CODE)] if path.is_file()]
    return datetime.fromtimestamp(max(times), UTC) if times else None


# ---- tests


@dataclass(frozen=True)
class Test:
    """One test, `name` as pytest calls it below the folder of the tests: `market/test_dates.py::test_name[case]`."""

    __test__ = False

    name: str
    outcome: Outcome
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Suite:
    """Results of tests by name, each from the newest report that has it.

    `silent` are the files of tests no report speaks of: somebody ran a part.
    """

    tests: Mapping[str, Test]
    began: datetime
    seconds: float
    silent: tuple[str, ...] = ()

    def count(self, outcome: Outcome) -> int:
        """Number of tests that ended so."""
        return sum(test.outcome == outcome for test in self.tests.values())

    def matching(self, pattern: str) -> tuple[Test, ...]:
        """Tests of a folder (`faults/`), of a file, or of a name with all its cases."""
        return tuple(test for name, test in self.tests.items() if _matches(name, pattern))


def _matches(name: str, pattern: str) -> bool:
    if pattern.endswith("/"):
        return name.startswith(pattern)
    return name == pattern or name.startswith((f"{pattern}[", f"{pattern}::"))


def read_suite(home: Path) -> Suite:
    """Read the reports of the last runs of the tests; those older than the code do not count.

    Raises
    ------
    PermanentError
        If there is none, one cannot be read, or all are older than the code.
    """
    paths = sorted((home / REPORTS).glob("junit*.xml"))
    if not paths:
        raise PermanentError(f"there is no report of tests in {home / REPORTS}; {RUN_TESTS}")
    reports = sorted((_read_report(path) for path in paths), key=lambda report: report[0])
    changed = newest_change(home)
    current = [report for report in reports if changed is None or report[0] >= changed]
    if not current:
        raise PermanentError(
            f"the newest report of tests is of {_minute(reports[-1][0])}, the code of {_minute(changed)}; {RUN_TESTS}"
        )
    tests = {test.name: test for _, found in current for test in found}
    heard = {name.partition("::")[0] for name in tests}
    files = {path.relative_to(home / TESTS).as_posix() for path in (home / TESTS).rglob("test_*.py")}
    seconds = sum(test.seconds for test in tests.values())
    return Suite(tests, current[0][0], seconds, tuple(sorted(files - heard)))


def _read_report(path: Path) -> tuple[datetime, list[Test]]:
    try:
        suites = list(ElementTree.parse(path).getroot().iter("testsuite"))  # noqa: S314 - our own file
        began = min(_moment(suite.attrib["timestamp"]) for suite in suites)
        return began, [test for suite in suites for test in _read_tests(suite)]
    except (ElementTree.ParseError, OSError, KeyError, ValueError) as error:
        raise PermanentError(f"the report of tests {path} cannot be read ({error}); {RUN_TESTS}") from error


def _read_tests(suite: ElementTree.Element) -> Iterator[Test]:
    for case in suite.iter("testcase"):
        # A file that cannot be imported has no class name, its name is the module's.
        module, name = (case.get("classname") or case.attrib["name"]), case.attrib["name"]
        place = module.removeprefix(f"{TESTS}.").replace(".", "/") + ".py"
        outcome: Outcome = "passed"
        reason = ""
        for child in case:
            if child.tag in ("failure", "error"):
                outcome, reason = ("failed" if child.tag == "failure" else "error"), child.get("message") or ""
            elif child.tag == "skipped" and outcome == "passed":
                outcome, reason = "skipped", child.get("message") or ""
        yield Test(f"{place}::{name}", outcome, float(case.get("time") or 0), " ".join(reason.split()))


def _moment(text: str) -> datetime:
    """Read a moment; without a zone it is this machine's."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _minute(moment: datetime | None) -> str:
    return "–" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"


# ---- coverage


@dataclass(frozen=True)
class Coverage:
    """Share of the lines of the package that the tests ran."""

    percent: float
    lines: int
    at: datetime


def read_coverage(home: Path) -> Coverage:
    """Read the coverage of the last run of the tests.

    Raises
    ------
    PermanentError
        If there is none, it cannot be read, or it is older than the code.
    """
    path = home / COVERAGE
    document = _read_json(path, "report of the coverage", RUN_TESTS)
    try:
        totals = document["totals"]
        found = Coverage(
            float(totals["percent_covered"]), int(totals["num_statements"]), _moment(document["meta"]["timestamp"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PermanentError(f"the report of the coverage {path} cannot be read ({error}); {RUN_TESTS}") from error
    changed = newest_change(home)
    if changed is not None and found.at < changed:
        raise PermanentError(f"the coverage is of {_minute(found.at)}, the code of {_minute(changed)}; {RUN_TESTS}")
    return found


# ---- benchmarks


@dataclass(frozen=True)
class Row:
    """A measured figure and its limit (None: there is none); with `at_least` it must be reached, else not passed."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """Whether the limit is kept; what is not a number keeps none."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Benchmark:
    """Rows of a benchmark, when they were taken and on what."""

    at: datetime
    machine: str
    commit: str | None
    rows: tuple[Row, ...]


Benchmarks = Mapping[str, Benchmark | None]


def read_benchmarks(home: Path) -> Benchmarks:
    """Read what was measured; a benchmark that never was, or broke, is None.

    Raises
    ------
    PermanentError
        If the file is missing or cannot be read.
    """
    path, todo = home / RESULTS, "run `make bench` on an idle machine"
    document = _read_json(path, "file of measured rows", todo)
    try:
        entries = document["benchmarks"]
        return {name: None if entry is None else _benchmark(entry) for name, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PermanentError(f"the file of measured rows {path} cannot be read ({error}); {todo}") from error


def _benchmark(entry: Mapping[str, Any]) -> Benchmark:
    rows = tuple(
        Row(
            str(row["name"]),
            math.nan if row["value"] is None else float(row["value"]),
            str(row["unit"]),
            None if row.get("limit") is None else float(row["limit"]),
            bool(row.get("at_least", False)),
        )
        for row in entry["rows"]
    )
    return Benchmark(_moment(entry["at"]), str(entry["machine"]), entry["commit"], rows)


def _read_json(path: Path, what: str, todo: str) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise PermanentError(f"there is no {what} at {path}; {todo}") from None
    except (OSError, ValueError) as error:
        raise PermanentError(f"the {what} {path} cannot be read ({error}); {todo}") from error
