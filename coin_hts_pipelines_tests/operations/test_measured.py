"""Reports of tests and coverage, measured rows, and what people wrote down: read, or refused with what to do."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.measure import Row as MeasuredRow
from coin_hts_pipelines.errors import PermanentError
from coin_hts_pipelines.operations.known_issues import FILE, Severity, read_register
from coin_hts_pipelines.operations.measured import (
    COVERAGE,
    REPORTS,
    RESULTS,
    TESTS,
    Row,
    newest_change,
    read_benchmarks,
    read_coverage,
    read_suite,
)
from coin_hts_pipelines_tests.conftest import CHECKOUT, clean_environment

CHANGED = datetime(2026, 1, 1, 12, tzinfo=UTC)
BEFORE, AFTER = CHANGED - timedelta(seconds=1), CHANGED + timedelta(seconds=1)

# What pytest itself says of: passed, a case, failed, an error, skipped, a file that cannot be imported.
SUITE = """
import pytest

def test_good(): pass

@pytest.mark.parametrize("case", ["a", "b"])
def test_cases(case): pass

def test_bad(): assert False, "it is not"

@pytest.fixture
def broken(): raise ValueError("no fixture")

def test_error(broken): pass

@pytest.mark.skip(reason="not here")
def test_skipped(): pass

@pytest.mark.xfail
def test_expected(): assert False
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkout with one file of code and two of tests, changed at `CHANGED`."""
    for name in ("coin_hts_pipelines/a.py", f"{TESTS}/test_one.py", f"{TESTS}/room/test_two.py"):
        write(tmp_path / name, "", CHANGED)
    return tmp_path


def write(path: Path, text: str, at: datetime | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if at is not None:
        os.utime(path, (at.timestamp(), at.timestamp()))


def junit(at: datetime, *cases: tuple[str, str, str]) -> str:
    """Report of cases: module below the tests, name, outcome."""
    tags = {"passed": "", "failed": "<failure message='m'/>", "error": "<error/>", "skipped": "<skipped message='w'/>"}
    inner = "".join(
        f'<testcase classname="{TESTS}.{module}" name="{name}" time="0.5">{tags[outcome]}</testcase>'
        for module, name, outcome in cases
    )
    return f'<testsuites><testsuite name="pytest" timestamp="{at.isoformat()}">{inner}</testsuite></testsuites>'


ONE, TWO = ("test_one", "test_a", "passed"), ("room.test_two", "test_b[x]", "passed")


# ---- tests


def test_what_pytest_writes_is_read(tmp_path: Path) -> None:
    write(tmp_path / TESTS / "__init__.py", "")
    write(tmp_path / TESTS / "test_all.py", SUITE)
    write(tmp_path / TESTS / "test_none.py", "import nothing_of_that_name")
    report = tmp_path / REPORTS / "junit.xml"
    argv = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", f"--junitxml={report}", TESTS]
    argv += ["--rootdir", str(tmp_path), "--continue-on-collection-errors"]
    done = subprocess.run(argv, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False)
    assert report.exists(), done.stdout + done.stderr
    found = read_suite(tmp_path)
    outcomes = {name.removeprefix("test_all.py::"): test.outcome for name, test in found.tests.items()}
    assert outcomes.pop(next(name for name in outcomes if "test_none" in name)) == "error"
    assert outcomes == {
        "test_good": "passed",
        "test_cases[a]": "passed",
        "test_cases[b]": "passed",
        "test_bad": "failed",
        "test_error": "error",
        "test_skipped": "skipped",
        "test_expected": "skipped",
    }
    assert found.silent == ()
    assert found.tests["test_all.py::test_skipped"].reason == "not here"


def test_parts_of_a_run_are_one_suite_and_the_newest_result_counts(home: Path) -> None:
    write(home / REPORTS / "junit-main.xml", junit(AFTER, ONE, ("test_one", "test_c", "failed")))
    write(home / REPORTS / "junit-faults.xml", junit(AFTER + timedelta(hours=1), TWO, ("test_one", "test_c", "passed")))
    found = read_suite(home)
    assert {name: test.outcome for name, test in found.tests.items()} == {
        "test_one.py::test_a": "passed",
        "test_one.py::test_c": "passed",
        "room/test_two.py::test_b[x]": "passed",
    }
    assert (found.began, found.seconds, found.silent) == (AFTER, 1.5, ())


def test_a_part_of_the_files_is_not_all_of_them(home: Path) -> None:
    write(home / REPORTS / "junit.xml", junit(AFTER, ONE))
    assert read_suite(home).silent == ("room/test_two.py",)


def test_a_part_that_is_older_than_the_code_does_not_count(home: Path) -> None:
    write(home / REPORTS / "junit-main.xml", junit(AFTER, ONE))
    write(home / REPORTS / "junit-faults.xml", junit(BEFORE, TWO))
    found = read_suite(home)
    assert set(found.tests) == {"test_one.py::test_a"}
    assert found.silent == ("room/test_two.py",)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("room/", {"b[x]"}),
        ("room/test_two.py", {"b[x]"}),
        ("room/test_two.py::test_b", {"b[x]"}),
        ("room/test_two.py::test_b[x]", {"b[x]"}),
        ("test_one.py::test_a", {"a"}),
        ("test_one.py::test_", set()),
        ("room", set()),
        ("test_one", set()),
    ],
)
def test_which_tests_are_meant(home: Path, pattern: str, names: set[str]) -> None:
    write(home / REPORTS / "junit.xml", junit(AFTER, ONE, TWO, ("test_one", "test_ab", "passed")))
    assert {test.name.partition("::test_")[2] for test in read_suite(home).matching(pattern)} == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no report of tests in"),
        (junit(BEFORE, ONE), "is of 2026-01-01 11:59 UTC, the code of 2026-01-01 12:00 UTC"),
        ("", "cannot be read"),
        ("<testsuites><testsuite", "cannot be read"),
        ("<testsuites/>", "cannot be read"),
        ("<testsuites><testsuite/></testsuites>", "cannot be read"),
        ('<testsuites><testsuite timestamp="soon"/></testsuites>', "cannot be read"),
    ],
)
def test_reports_that_are_none(home: Path, text: str | None, said: str) -> None:
    if text is not None:
        write(home / REPORTS / "junit.xml", text)
    with pytest.raises(PermanentError, match=said) as error:
        read_suite(home)
    assert "run `make test`" in str(error.value)


@pytest.mark.parametrize(
    "name", ["coin_hts_pipelines/b.js", f"{TESTS}/new/test_x.py", "pyproject.toml", "dagster.yaml"]
)
def test_what_counts_as_a_change_of_the_code(home: Path, name: str) -> None:
    assert newest_change(home) == CHANGED
    write(home / name, "", AFTER)
    assert newest_change(home) == AFTER


@pytest.mark.parametrize("name", ["README.md", "coin_hts_pipelines/__pycache__/a.pyc", "docs/a.py"])
def test_what_does_not(home: Path, name: str) -> None:
    write(home / name, "", AFTER)
    assert newest_change(home) == CHANGED


def test_without_code_nothing_is_older_than_it(tmp_path: Path) -> None:
    assert newest_change(tmp_path) is None
    write(tmp_path / REPORTS / "junit.xml", junit(BEFORE, ONE))
    assert read_suite(tmp_path).count("passed") == 1


# ---- coverage


def coverage(at: datetime, percent: object = 91.25) -> str:
    # coverage.py writes local time without a zone.
    stamp = at.astimezone().replace(tzinfo=None).isoformat()
    return json.dumps({"meta": {"timestamp": stamp}, "totals": {"percent_covered": percent, "num_statements": 400}})


def test_the_coverage(home: Path) -> None:
    write(home / COVERAGE, coverage(AFTER))
    found = read_coverage(home)
    assert (found.percent, found.lines, found.at) == (91.25, 400, AFTER)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no report of the coverage at"),
        (coverage(BEFORE), "the coverage is of 2026-01-01 11:59 UTC"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"totals": {}}', "cannot be read"),
        (coverage(AFTER, "much"), "cannot be read"),
    ],
)
def test_coverage_that_is_none(home: Path, text: str | None, said: str) -> None:
    if text is not None:
        write(home / COVERAGE, text)
    with pytest.raises(PermanentError, match=said) as error:
        read_coverage(home)
    assert "run `make test`" in str(error.value)


def test_the_tests_leave_what_is_read_here() -> None:
    makefile, ci = ((CHECKOUT / name).read_text() for name in ("Makefile", ".ci/run"))
    assert f"--junitxml={REPORTS}/$(REPORT).xml --cov --cov-report=json:{COVERAGE} " in makefile
    names = [*re.findall(r"^REPORT \?= (\S+)", makefile, re.MULTILINE), *re.findall(r"make test REPORT=(\S+)", ci)]
    assert len(set(names)) == len(names) == ci.count("make test") + 1
    assert all(name.startswith("junit") for name in names)
    assert "--cov-append" in ci[ci.rindex("make test") :], "the last part has the coverage of all"


# ---- benchmarks


def test_rows_are_read_as_the_benchmarks_keep_them(tmp_path: Path) -> None:
    rows = (
        MeasuredRow("time", 1.5, "s", 2, bound=0.5, bound_by="imports", note="n"),
        MeasuredRow("lost", 0.0, "", 0),
        MeasuredRow("rate", math.nan, "/s", 5, at_least=True),
        MeasuredRow("shown", 3, "MB"),
    )
    file = tmp_path / RESULTS
    file.parent.mkdir()
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    results.save("first", results.Measured(at, "a machine", "abc", rows), ("never", "first"), file)
    again = results.load(file)
    assert list(again) == ["never", "first"]
    assert again["never"] is None
    assert repr(again["first"].rows) == repr(rows)
    found = read_benchmarks(tmp_path)
    assert found["never"] is None
    assert (found["first"].at, found["first"].machine, found["first"].commit) == (at, "a machine", "abc")
    time, lost, rate, shown = found["first"].rows
    assert (time, lost, shown) == (Row("time", 1.5, "s", 2), Row("lost", 0, "", 0), Row("shown", 3, "MB"))
    assert math.isnan(rate.value)
    assert [row.kept for row in found["first"].rows] == [True, True, False, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no file of measured rows at"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "cannot be read"),
        ('{"benchmarks": []}', "cannot be read"),
        ('{"benchmarks": {"a": {"rows": []}}}', "cannot be read"),
        (
            '{"benchmarks": {"a": {"at": "2026-01-01", "machine": "", "commit": "", "rows": [{"name": 1}]}}}',
            "cannot be",
        ),
    ],
)
def test_measured_rows_that_are_none(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        write(tmp_path / RESULTS, text)
    with pytest.raises(PermanentError, match=said) as error:
        read_benchmarks(tmp_path)
    assert "run `make bench`" in str(error.value)


def test_the_committed_rows_can_be_read() -> None:
    found = read_benchmarks(CHECKOUT)
    assert sum(row.limit is not None for entry in found.values() if entry for row in entry.rows) > 100


# ---- what people write down

GOOD = """
ui_end_to_end = ["room/"]
[[issue]]
id = "a"
severity = "high"
title = "t"
since = 2026-01-01
workaround = "w"
[[done]]
text = "d"
measured_by = ["test room/", "benchmark a: b c", "gate tests"]
"""


def test_what_people_wrote_down(tmp_path: Path) -> None:
    write(tmp_path / FILE, GOOD)
    found = read_register(tmp_path)
    assert [(one.id, one.severity) for one in found.issue] == [("a", Severity.HIGH)]
    assert found.done[0].measured_by == ("test room/", "benchmark a: b c", "gate tests")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "nobody knows what is known to be wrong"),
        (lambda text: text + "[", "cannot be read"),
        (lambda text: "", "ui_end_to_end: Field required"),
        (lambda text: text.replace('"high"', '"urgent"'), r"issue\.0\.severity: Input should be 'critical', 'high'"),
        (lambda text: text.replace("2026-01-01", '"long ago"'), r"issue\.0\.since"),
        (lambda text: text.replace('"w"', '" "'), r"issue\.0\.workaround"),
        (lambda text: text.replace("title", "name"), r"issue\.0\.title: Field required"),
        (lambda text: text.replace('"gate tests"', '"trust me"'), r"done\.0\.measured_by\.2"),
        (lambda text: text + text[text.index("[[issue]]") : text.index("[[done]]")], "issue a stands there twice"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, change: Callable[[str], str] | None, said: str) -> None:
    if change is not None:
        write(tmp_path / FILE, change(GOOD))
    with pytest.raises(PermanentError, match=said):
        read_register(tmp_path)


def test_a_file_of_bytes_is_an_error_too(tmp_path: Path) -> None:
    write(tmp_path / FILE, "")
    (tmp_path / FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(PermanentError, match="cannot be read"):
        read_register(tmp_path)
