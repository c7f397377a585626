"""Gates, severities and the decision, as tables of facts and of what comes out."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines.operations.health import Backups, DiskUsage, Finding
from coin_hts_pipelines.operations.instance_report import Infrastructure, environment_page, infrastructure_page
from coin_hts_pipelines.operations.known_issues import DoneLine, KnownIssue, Register, Severity, read_register
from coin_hts_pipelines.operations.measured import Benchmark, Coverage, Row, Suite, Test, read_benchmarks
from coin_hts_pipelines.operations.readiness import Decision, Deliverable, Readiness, judge, tick
from coin_hts_pipelines.operations.readiness_gates import (
    LEAST_COVERAGE,
    Facts,
    Gate,
    Series,
    Unknown,
    ask,
    judge_gates,
    missed,
)
from coin_hts_pipelines.operations.readiness_report import interface_page, readiness_document, readiness_page, table
from coin_hts_pipelines.operations.retention import FolderSize, TableSize
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines_tests.conftest import CHECKOUT

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
CRITICAL, HIGH, MEDIUM, LOW = Severity
GO, CONDITIONAL, NO_GO = Decision
UNKNOWN = Unknown("nobody knows")


def suite(*outcomes: str, silent: tuple[str, ...] = ()) -> Suite:
    """Tests of `ui/test_page.py`, then of `test_rest.py`; `u:` before an outcome says which."""
    tests = {}
    for number, outcome in enumerate(outcomes):
        place = "ui/test_page.py" if outcome.startswith("u:") else "test_rest.py"
        name = f"{place}::test_{number}"
        tests[name] = Test(name, outcome.removeprefix("u:"), 1.0, "no browser" if "skipped" in outcome else "")
    return Suite(tests, NOW - HOUR, float(len(tests)), silent)


def benchmark(*rows: Row, at: datetime = NOW) -> Benchmark:
    return Benchmark(at, "a machine", "abc", rows)


def series(**problems: str) -> Series:
    first = NOW - 30 * DAY
    found = {check: (text,) for check, text in problems.items()}
    return Series("KRW-BTC", "1D", "exchange:upbit", 30, first, NOW - DAY, 0, 1000, found)


def known(severity: Severity, name: str = "k") -> KnownIssue:
    return KnownIssue(id=name, severity=severity, title=f"title of {name}", since=date(2026, 1, 1), workaround="w")


REGISTER = Register(
    ui_end_to_end=("ui/",), done=(DoneLine(text="it works", measured_by=("gate tests", "benchmark a: row")),)
)
GOOD = Facts(
    at=NOW,
    timeframes=("1D",),
    register=REGISTER,
    suite=suite("u:passed", "passed", "skipped"),
    coverage=Coverage(90.0, 1000, NOW),
    benchmarks={"a": benchmark(Row("row", 1, "s", 2), Row("shown", 1, "s"))},
    findings=(Finding("postgres", "ok", "18"), Finding("backups", "fail", "judged elsewhere")),
    candles=(series(outliers="one"),),
    dead_letters=0,
    backups=Backups(3, NOW - HOUR, NOW - DAY, True),
)
FILES = [Deliverable("a file", "a.md", 10, NOW)]


def gate(facts: Facts, name: str) -> Gate:
    return next(one for one in judge_gates(facts) if one.name == name)


def severities(found: Gate) -> list[Severity]:
    return [issue.severity for issue in found.issues]


# ---- gates: what changes, which gate it concerns, how bad each issue is (none: it passes)

GATES: list[tuple[str, dict[str, Any], list[Severity]]] = [
    ("tests", {}, []),
    ("tests", {"suite": UNKNOWN}, [HIGH]),
    ("tests", {"suite": suite()}, [HIGH]),
    ("tests", {"suite": suite("skipped")}, [HIGH]),
    ("tests", {"suite": suite("passed", "failed", "error")}, [HIGH, HIGH]),
    ("tests", {"suite": suite("passed", silent=("test_x.py",))}, [HIGH]),
    ("coverage", {}, []),
    ("coverage", {"coverage": UNKNOWN}, [HIGH]),
    ("coverage", {"coverage": Coverage(85.0, 1, NOW)}, []),
    ("coverage", {"coverage": Coverage(84.999, 1, NOW)}, [HIGH]),
    ("coverage", {"coverage": Coverage(0.0, 1, NOW)}, [HIGH]),
    ("coverage", {"coverage": Coverage(math.nan, 1, NOW)}, [HIGH]),
    ("coverage", {"coverage": Coverage(math.inf, 1, NOW)}, [HIGH]),
    ("user interface", {}, []),
    ("user interface", {"suite": UNKNOWN}, [HIGH]),
    ("user interface", {"register": UNKNOWN}, [HIGH]),
    ("user interface", {"suite": suite("passed")}, [HIGH]),
    ("user interface", {"suite": suite("u:passed", "failed")}, []),
    ("user interface", {"suite": suite("u:passed", "u:failed")}, [HIGH]),
    ("user interface", {"suite": suite("u:passed", "u:error")}, [HIGH]),
    ("user interface", {"suite": suite("u:passed", "u:skipped")}, [HIGH]),
    ("user interface", {"register": REGISTER.model_copy(update={"ui_end_to_end": ()})}, [HIGH]),
    ("benchmarks", {}, []),
    ("benchmarks", {"benchmarks": UNKNOWN}, [HIGH]),
    ("benchmarks", {"benchmarks": {}}, [HIGH]),
    ("benchmarks", {"benchmarks": {"a": benchmark(Row("r", 1, "s", 1)), "b": None}}, [HIGH]),
    ("benchmarks", {"benchmarks": {"a": benchmark(Row("r", 1, "s", 1)), "b": benchmark()}}, [HIGH]),
    ("benchmarks", {"benchmarks": {"a": benchmark(Row("r", 1, "s"))}}, [HIGH]),
    ("benchmarks", {"benchmarks": {"a": benchmark(Row("r", 1, "s", 1), at=NOW - 30 * DAY)}}, []),
    ("benchmarks", {"benchmarks": {"a": benchmark(Row("r", 1, "s", 1), at=NOW - 30 * DAY - HOUR)}}, [HIGH]),
    ("benchmarks", {"benchmarks": {"a": benchmark(Row("r", 1, "s", 1), at=NOW + HOUR)}}, [HIGH]),
    ("benchmarks", {"benchmarks": {"a": benchmark(Row("r", 3, "s", 1), Row("x", 20, "s", 1))}}, [HIGH, CRITICAL]),
    ("instance", {}, []),
    ("instance", {"findings": UNKNOWN}, [CRITICAL]),
    ("instance", {"findings": ()}, [CRITICAL]),
    ("instance", {"findings": (Finding("a", "warn", ""), Finding("b", "fail", ""))}, [MEDIUM, CRITICAL]),
    ("instance", {"findings": (Finding("daemon", "warn", ""),)}, [HIGH]),
    ("candles", {}, []),
    ("candles", {"candles": UNKNOWN}, [CRITICAL]),
    ("candles", {"candles": ()}, [HIGH]),
    ("candles", {"timeframes": ("1D", "1H")}, [HIGH]),
    ("candles", {"candles": (series(unreadable="x"),)}, [CRITICAL]),
    ("candles", {"candles": (series(schema="x"),)}, [CRITICAL]),
    ("candles", {"candles": (series(grid="x"), series(grid="y"))}, [CRITICAL]),
    ("candles", {"candles": (series(unfetched="x", freshness="y"),)}, [HIGH, HIGH]),
    ("candles", {"candles": (series(gaps="x", agreement="y"),)}, [MEDIUM, MEDIUM]),
    ("dead letters", {}, []),
    ("dead letters", {"dead_letters": UNKNOWN}, [CRITICAL]),
    ("dead letters", {"dead_letters": 7}, [HIGH]),
    ("backup", {}, []),
    ("backup", {"backups": UNKNOWN}, [CRITICAL]),
    ("backup", {"backups": Backups()}, [CRITICAL]),
    ("backup", {"backups": Backups(1, NOW - 2 * DAY)}, []),
    ("backup", {"backups": Backups(1, NOW - 2 * DAY - HOUR)}, [HIGH]),
    ("backup", {"backups": Backups(1, NOW + HOUR)}, [HIGH]),
    ("restore drill", {}, []),
    ("restore drill", {"backups": UNKNOWN}, [CRITICAL]),
    ("restore drill", {"backups": Backups(1, NOW)}, [HIGH]),
    ("restore drill", {"backups": Backups(1, NOW, NOW - 8 * DAY, True)}, []),
    ("restore drill", {"backups": Backups(1, NOW, NOW - 8 * DAY - HOUR, True)}, [HIGH]),
    ("restore drill", {"backups": Backups(1, NOW, NOW + HOUR, True)}, [HIGH]),
    ("restore drill", {"backups": Backups(1, NOW, NOW, False)}, [CRITICAL]),
]


@pytest.mark.parametrize(("name", "change", "bad"), GATES)
def test_a_gate(name: str, change: dict[str, Any], bad: list[Severity]) -> None:
    found = gate(replace(GOOD, **change), name)
    assert severities(found) == bad
    assert found.passed is not bool(bad)
    assert {issue.source for issue in found.issues} <= {name}


def test_every_gate_is_in_the_table() -> None:
    assert {name for name, *_ in GATES} | {"known issues"} == {one.name for one in judge_gates(GOOD)}


@pytest.mark.parametrize(
    ("issues", "passed", "measured"),
    [
        ([], True, "0 critical, 0 high, 0 medium, 0 low"),
        ([HIGH] * 5 + [MEDIUM, LOW], True, "0 critical, 5 high, 1 medium, 1 low"),
        ([HIGH] * 6, False, "0 critical, 6 high, 0 medium, 0 low"),
        ([CRITICAL], False, "1 critical, 0 high, 0 medium, 0 low"),
    ],
)
def test_the_gate_of_known_issues(issues: list[Severity], passed: bool, measured: str) -> None:
    listed = tuple(known(severity, f"k{number}") for number, severity in enumerate(issues))
    found = gate(replace(GOOD, register=REGISTER.model_copy(update={"issue": listed})), "known issues")
    assert (found.passed, found.measured, severities(found)) == (passed, measured, issues)
    assert [issue.source for issue in found.issues] == [one.id for one in listed]


def test_known_issues_that_nobody_can_read_are_critical() -> None:
    found = gate(replace(GOOD, register=UNKNOWN), "known issues")
    assert (found.passed, severities(found)) == (False, [CRITICAL])


def test_coverage_is_not_rounded_up() -> None:
    assert gate(replace(GOOD, coverage=Coverage(84.999, 1, NOW)), "coverage").measured == "84.99 % of 1 lines"


def test_the_least_coverage_is_that_of_ci() -> None:
    assert f"--cov-fail-under={LEAST_COVERAGE:g} " in (CHECKOUT / ".ci/run").read_text()


def test_a_fact_that_cannot_be_found_out_is_unknown() -> None:
    def broken() -> int:
        raise ValueError("no number\nsecond line")

    assert ask(lambda: 1) == 1
    assert ask(broken) == Unknown("ValueError: no number")
    assert ask(lambda: Path("/does/not/exist").read_text()) == Unknown(
        "[Errno 2] No such file or directory: '/does/not/exist'"
    )


# ---- how much a limit is missed by


@pytest.mark.parametrize(
    ("value", "unit", "limit", "at_least", "severity"),
    [
        (5, "s", 5, False, None),
        (4, "s", None, False, None),
        (5.001, "s", 5, False, MEDIUM),
        (5.99, "s", 5, False, MEDIUM),
        (4.1, "s", 3.1, False, HIGH),  # as floats they are 0.9999999999999996 apart
        (6, "s", 5, False, HIGH),
        (14.99, "s", 5, False, HIGH),
        (15, "s", 5, False, CRITICAL),
        (10.1, "s", 0.1, False, CRITICAL),
        (1999, "ms", 1000, False, MEDIUM),
        (2000, "ms", 1000, False, HIGH),
        (10999, "ms", 1000, False, HIGH),
        (11000, "ms", 1000, False, CRITICAL),
        (4, "s", 15, True, CRITICAL),
        (14, "s", 15, True, HIGH),
        (15, "s", 15, True, None),
        (401, "MB", 400, False, HIGH),
        (199_999, "candles/s", 200_000, True, HIGH),
        (41, "ns/bar", 40, False, HIGH),
        (999, "", 1000, True, CRITICAL),
        (1, "", 0, False, CRITICAL),
        (0, "", 0, False, None),
        (math.nan, "s", 5, False, HIGH),
        (math.inf, "s", 5, False, HIGH),
        (math.nan, "", 5, False, CRITICAL),
        (math.nan, "s", None, False, None),
    ],
)
def test_how_bad_a_missed_limit_is(
    value: float, unit: str, limit: float | None, at_least: bool, severity: Severity | None
) -> None:
    assert missed(Row("r", float(value), unit, limit, at_least)) is severity


figures = st.floats(allow_nan=True, allow_infinity=True)
limits = st.none() | st.floats(allow_nan=False, allow_infinity=False)
rows = st.builds(
    Row, st.sampled_from("abc"), figures, st.sampled_from(["s", "ms", "MB", "x", ""]), limits, st.booleans()
)


@given(st.lists(st.lists(rows, min_size=1, max_size=5), min_size=1, max_size=4))
def test_a_missed_limit_is_never_a_pass(groups: list[list[Row]]) -> None:
    entries = {f"b{number}": benchmark(*group) for number, group in enumerate(groups)}
    flat = [row for group in groups for row in group]
    # Told apart without the code under test.
    bad = [
        row
        for row in flat
        if row.limit is not None and not (row.value >= row.limit if row.at_least else row.value <= row.limit)
    ]
    facts = replace(GOOD, benchmarks=entries)
    found = gate(facts, "benchmarks")
    assert found.passed == (not bad and any(row.limit is not None for row in flat))
    assert len(found.issues) >= len(bad)
    judged = judge(facts, FILES)
    if bad:
        assert "| benchmarks | **FAIL** |" in readiness_page(judged, REGISTER)
        for row in bad:
            line = DoneLine(text="x", measured_by=(f"benchmark {_name(entries, row)}: {row.name}",))
            assert not tick(line, facts, judged.gates).done


def _name(entries: dict[str, Benchmark], row: Row) -> str:
    return next(name for name, entry in entries.items() if any(one is row for one in entry.rows))


# ---- the definition of done


@pytest.mark.parametrize(
    ("measures", "done", "said"),
    [
        ((), False, "nothing measures it"),
        (("gate tests",), True, "gate tests: PASS, 2 passed, 1 skipped"),
        (("gate nothing",), False, "gate nothing: unknown"),
        (("gate backup",), True, "gate backup: PASS, 60 min old, of 3"),
        (("test ui/",), True, "test ui/: 1 passed"),
        (("test test_rest.py",), False, "test test_rest.py: 1 passed, 1 skipped"),
        (("test test_rest.py::test_1",), True, "test test_rest.py::test_1: 1 passed"),
        (("test test_rest.py::test_2",), False, "test test_rest.py::test_2: 1 skipped"),
        (("test test_gone.py",), False, "test test_gone.py: no test"),
        (("benchmark a: row",), True, "row: 1 s, asked <= 2"),
        (("benchmark a: shown",), False, "shown: 1 s"),
        (("benchmark a: other",), False, "other: not measured"),
        (("benchmark b: row",), False, "row: not measured"),
        (("gate tests", "gate nothing"), False, "gate nothing: unknown"),
    ],
)
def test_a_line_is_ticked_by_measured_values_alone(measures: tuple[str, ...], done: bool, said: str) -> None:
    found = tick(DoneLine(text="it is so", measured_by=measures), GOOD, judge_gates(GOOD))
    assert (found.done, found.measured[-1]) == (done, said)


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        ({"suite": UNKNOWN}, "test ui/"),
        ({"suite": suite("u:passed", "u:failed")}, "test ui/"),
        ({"suite": suite("u:passed", "u:error")}, "test ui/"),
        ({"suite": UNKNOWN}, "gate tests"),
        ({"benchmarks": UNKNOWN}, "benchmark a: row"),
        ({"benchmarks": {"a": None}}, "benchmark a: row"),
        ({"benchmarks": {"a": benchmark(Row("row", 3, "s", 2))}}, "benchmark a: row"),
        ({"benchmarks": {"a": benchmark(Row("row", 1, "s", 2), Row("row", 3, "s", 2))}}, "benchmark a: row"),
        ({"benchmarks": {"a": benchmark(Row("row", 1, "s", 2), at=NOW - 31 * DAY)}}, "benchmark a: row"),
    ],
)
def test_a_line_that_is_no_more(change: dict[str, Any], measure: str) -> None:
    facts = replace(GOOD, **change)
    assert not tick(DoneLine(text="x", measured_by=(measure,)), facts, judge_gates(facts)).done


# ---- the decision


def with_issues(*found: Severity) -> dict[str, Any]:
    listed = tuple(known(severity, f"k{number}") for number, severity in enumerate(found))
    return {"register": REGISTER.model_copy(update={"issue": listed})}


@pytest.mark.parametrize(
    ("change", "files", "decision"),
    [
        ({}, FILES, GO),
        (with_issues(*[HIGH] * 5, MEDIUM, LOW), FILES, GO),
        (with_issues(*[HIGH] * 6), FILES, CONDITIONAL),
        (with_issues(CRITICAL), FILES, NO_GO),
        ({}, [*FILES, Deliverable("b", "b.md", None, None)], CONDITIONAL),
        ({}, [*FILES, Deliverable("b", "b.md", 0, NOW)], CONDITIONAL),
        ({}, [*FILES, Deliverable("b", "b.md", 5, None)], CONDITIONAL),
        ({}, [*FILES, Deliverable("b", "b.md", 5, NOW, "not measured")], CONDITIONAL),
        ({"suite": suite("u:passed", "failed")}, FILES, CONDITIONAL),
        ({"suite": UNKNOWN}, FILES, CONDITIONAL),
        ({"coverage": UNKNOWN}, FILES, GO),  # one High, and no line asks for it
        ({"register": REGISTER.model_copy(update={"done": ()})}, FILES, CONDITIONAL),
        ({"benchmarks": {"a": benchmark(Row("row", 2.5, "s", 2))}}, FILES, CONDITIONAL),
        ({"benchmarks": {"a": benchmark(Row("row", 12, "s", 2))}}, FILES, NO_GO),
        ({"register": UNKNOWN}, FILES, NO_GO),
        ({"backups": Backups()}, FILES, NO_GO),
        ({"dead_letters": UNKNOWN}, FILES, NO_GO),
        (with_issues(CRITICAL), [*FILES, Deliverable("b", "b.md", None, None)], NO_GO),
    ],
)
def test_the_decision(change: dict[str, Any], files: list[Deliverable], decision: Decision) -> None:
    found = judge(replace(GOOD, **change), files)
    assert found.decision is decision
    assert bool(found.open) is (decision is not GO or bool(found.issues))


counts = st.integers(0, 7)


@given(critical=st.integers(0, 2), high=counts, medium=counts, file=st.booleans(), done=st.booleans())
def test_go_only_when_all_of_it_holds(critical: int, high: int, medium: int, file: bool, done: bool) -> None:
    facts = replace(GOOD, **with_issues(*[CRITICAL] * critical, *[HIGH] * high, *[MEDIUM] * medium))
    if not done:
        line = DoneLine(text="open", measured_by=("test nowhere/",))
        facts = replace(facts, register=facts.register.model_copy(update={"done": (*REGISTER.done, line)}))
    found = judge(facts, [*FILES, Deliverable("b", "b.md", 1 if file else None, NOW if file else None)])
    assert (found.decision is GO) == (critical == 0 and high <= 5 and file and done)
    assert (found.decision is NO_GO) == (critical > 0)
    assert len(found.open) == critical + high + medium + (high > 5) + (not file) + (not done)


def test_one_failed_test_of_the_interface_is_one_issue() -> None:
    found = judge(replace(GOOD, suite=suite("u:passed", "u:failed")), FILES)
    assert [(one.severity, one.what) for one in found.issues] == [
        (HIGH, "test ui/test_page.py::test_1 ended as failed")
    ]


def test_the_worst_stands_first() -> None:
    found = judge(replace(GOOD, **with_issues(LOW, HIGH, CRITICAL, MEDIUM)), FILES)
    assert [one.severity for one in found.issues] == [CRITICAL, HIGH, MEDIUM, LOW]


# ---- documents


def judged(**change: Any) -> tuple[Readiness, Facts]:
    facts = replace(GOOD, **change)
    return judge(facts, [*FILES, Deliverable("b | c", "b.md", None, None)]), facts


def test_the_page_says_all_of_it() -> None:
    found, _ = judged(dead_letters=2)
    text = readiness_page(found, read_register(CHECKOUT))
    assert "**conditional GO**. Issues: 0 critical, 1 high, 0 medium, 0 low." in text
    assert "| dead letters | **FAIL** | none is open | 2 open |" in text
    assert "| tests | PASS | every test passes | 2 passed, 1 skipped |" in text
    assert "- High: 2 dead letters are open; see `coin-hts task dead list` (dead letters)" in text
    assert "| a file | there | a.md | 10 | 2026-11-21 12:00 UTC |" in text
    assert "| b \\| c | **missing**: there is no file | b.md | – | – |" in text
    assert "| done | it works | gate tests: PASS, 2 passed, 1 skipped; row: 1 s, asked <= 2 |" in text
    for heading in ("Known issues", "Start conditions", "Open decisions"):
        assert f"## {heading}\n" in text


def test_a_page_without_what_people_wrote_down_says_why() -> None:
    found, facts = judged(register=UNKNOWN)
    assert "nobody knows" in readiness_page(found, facts.register)
    assert readiness_document(found, facts.register)["written_down"] is None


def test_the_document_for_programs() -> None:
    found, facts = judged(dead_letters=2)
    document = json.loads(json.dumps(readiness_document(found, facts.register)))
    assert document["decision"] == "conditional GO"
    assert document["issues_by_severity"] == {"critical": 0, "high": 1, "medium": 0, "low": 0}
    assert {one["name"]: one["passed"] for one in document["gates"]}["dead letters"] is False
    assert [one["exists"] for one in document["deliverables"]] == [True, False]
    assert [one["done"] for one in document["definition_of_done"]] == [True]


def test_cells_end_no_table() -> None:
    assert table(("a",), [("x | y\nz",), (None,)]).splitlines()[2:] == ["| x \\| y z |", "| – |"]
    assert table(("a",), [], "nothing") == "nothing"


def test_the_results_of_the_interface() -> None:
    text = interface_page(replace(GOOD, suite=suite("u:passed", "u:skipped", "passed")))
    assert "1 passed, 1 skipped; the tests began 2026-11-21 11:00 UTC" in text
    assert "## ui/test_page.py" in text
    assert "| test_1 | skipped | 1.0 s | no browser |" in text
    assert "test_2" not in text
    assert "Not measured: nobody knows." in interface_page(replace(GOOD, suite=UNKNOWN))


def test_the_environment_shows_settings_and_no_secret(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, database_url="postgresql://me:planted-secret@host/db", smtp_host="mail.example", threads=3
    )
    text = environment_page(GOOD, settings)
    assert "planted-secret" not in text
    assert "| COIN_HTS_DATABASE_URL | set | (secret) |" in text
    assert "| COIN_HTS_SLACK_WEBHOOK_URL | default | – |" in text
    assert "| COIN_HTS_THREADS | set | 3 |" in text
    assert "| backups | fail | judged elsewhere |" in text, (
        "every finding of doctor, also those with a gate of their own"
    )
    assert text.count("\n| COIN_HTS_") == len(Settings.model_fields)
    assert "| Python | 3." in text
    assert "| dagster | 1." in text
    assert "nobody knows" in environment_page(replace(GOOD, findings=UNKNOWN), settings)


INFRASTRUCTURE = Infrastructure(
    disks={"data": (Path("/data"), DiskUsage(750, 250_000_000_000))},
    folders=(FolderSize(Path("/data/results"), 1234, 5),),
    tables=(TableSize("dagster.runs", 8192, 12),),
    tasks={"queued": 1, "completed": 2000},
    open_runs={"queued": 0, "running": 1},
    runs_of_a_day={"success": 9},
)


def test_data_and_infrastructure() -> None:
    text = infrastructure_page(replace(GOOD, candles=(series(outliers="one"), series())), INFRASTRUCTURE)
    first, last = "2026-10-22 12:00 UTC", "2026-11-20 12:00 UTC"
    assert f"| 1D | 2 | 60 | {first} | {last} | 0 | 2,000 | exchange:upbit |" in text
    assert "| outliers | KRW-BTC | 1D | one |" in text
    assert "| dagster.runs | 8,192 | 12 |" in text
    assert "| /data/results | 1,234 | 5 |" in text
    assert "| data | /data | 0 % | 250.0 GB |" in text
    assert "| newest | 2026-11-21 11:00 UTC, 60 min old |" in text
    assert "| restore drill | 2026-11-20 12:00 UTC, passed |" in text
    assert "| tasks | 1 queued, 2,000 completed |" in text
    assert "| dead letters | 0 |" in text


def test_what_is_unknown_is_said_in_its_place() -> None:
    nothing = Infrastructure(*[Unknown(f"no {number}") for number in range(6)])
    facts = replace(GOOD, candles=UNKNOWN, backups=UNKNOWN, dead_letters=Unknown("no letters"))
    text = infrastructure_page(facts, nothing)
    assert all(f"no {number}" in text for number in range(6))
    assert text.count("nobody knows") == 3
    assert "| dead letters | no letters |" in text
    empty = infrastructure_page(replace(GOOD, candles=(), backups=Backups()), INFRASTRUCTURE)
    assert "There are none." in empty
    assert "| restore drill | never |" in empty


# ---- what is committed


def test_what_the_committed_file_names_is_there() -> None:
    register = read_register(CHECKOUT)
    gates, benchmarks = {one.name for one in judge_gates(GOOD)}, read_benchmarks(CHECKOUT)
    tests = CHECKOUT / "coin_hts_pipelines_tests"
    named = [
        *(f"test {place}" for place in register.ui_end_to_end),
        *(m for one in register.done for m in one.measured_by),
    ]
    for measure in named:
        kind, _, what = measure.partition(" ")
        if kind == "gate":
            assert what in gates, measure
        elif kind == "test":
            file, _, name = what.partition("::")
            assert (tests / file).exists(), measure
            assert f"def {name}(" in (tests / file).read_text() if name else True, measure
        else:
            benchmark_name, _, row = what.partition(": ")
            assert benchmark_name in benchmarks, measure
            entry = benchmarks[benchmark_name]
            assert entry is None or any(one.name == row and one.limit is not None for one in entry.rows), measure
    assert all(one.measured_by for one in register.done)


def test_a_browser_is_used_only_by_tests_of_the_interface() -> None:
    register = read_register(CHECKOUT)
    tests = CHECKOUT / "coin_hts_pipelines_tests"
    users = {
        path.relative_to(tests).as_posix()
        for path in tests.rglob("test_*.py")
        if any(
            line.startswith("from coin_hts_pipelines_tests.reports.browser ") for line in path.read_text().splitlines()
        )
    }
    assert users
    assert users <= {place.partition("::")[0] for place in register.ui_end_to_end}
