"""`coin-hts readiness` as a person and as a program calls it: from nothing measured to GO, and back by a bad figure."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines_tests.conftest import Project

REGISTER = """
ui_end_to_end = ["ui/"]
[[issue]]
id = "slow"
severity = "low"
title = "It is slow at night"
since = 2026-01-01
workaround = "Wait"
[[start_condition]]
text = "Somebody is there"
[[open_decision]]
text = "Who is there at night"
since = 2026-01-01
[[done]]
text = "It comes back from a backup"
measured_by = ["gate restore drill", "test ui/", "benchmark a: row"]
"""
VARIABLES = {"COIN_HTS_TIMEFRAMES": "1D", "COIN_HTS_SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/planted"}
REPORTS = ("environment.md", "data_and_infrastructure.md", "ui_end_to_end.md", "readiness.json", "readiness.md")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def suite(home: Path, outcome: str = "") -> None:
    now = datetime.now(UTC).isoformat()
    case = f'<testcase time="1" name="test_a" classname="coin_hts_pipelines_tests.ui.test_page">{outcome}</testcase>'
    write(home / "build/reports/junit.xml", f'<testsuite timestamp="{now}">{case}</testsuite>')


def coverage(home: Path, percent: float = 90.0) -> None:
    stamp = datetime.now().isoformat()  # noqa: DTZ005 - as coverage.py writes it
    document = {"meta": {"timestamp": stamp}, "totals": {"percent_covered": percent, "num_statements": 9}}
    write(home / "build/reports/coverage.json", json.dumps(document))


def benchmarks(home: Path, value: float = 1.0) -> None:
    row = {"name": "row", "value": value, "unit": "s", "limit": 2}
    entry = {"at": datetime.now(UTC).isoformat(), "machine": "m", "commit": None, "rows": [row]}
    write(home / "benchmarks/results.json", json.dumps({"benchmarks": {"a": entry}}))


def judge(project: Project, *argv: str) -> tuple[int, Any]:
    done = project.coin_hts("readiness", *argv, **VARIABLES)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout) if "--json" in argv else done.stdout


def states(document: dict[str, Any]) -> dict[str, bool]:
    return {gate["name"]: gate["passed"] for gate in document["gates"]}


def test_nothing_measured_is_no_go_and_nothing_is_started(project: Project) -> None:
    status, document = judge(project, "--check", "--json")
    assert (status, document["decision"]) == (1, "NO-GO")
    assert not any(states(document).values())
    assert not any(one["exists"] for one in document["deliverables"])
    assert not (project.home / "docs").exists()
    assert not (project.data / "postgres").exists()


@pytest.fixture(scope="module")
def ready(project: Project) -> Iterator[Project]:
    """A project of which everything was measured: candles, a backup, a drill, tests, benchmarks."""

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        done = project.coin_hts(*argv, **VARIABLES)
        assert done.returncode == 0, done.stderr
        return done

    run("setup")
    run("data", "generate", "--symbols", "KRW-BTC", "--timeframes", "1D", "--start", "2026-01-01")
    run("backup", "create")
    run("backup", "drill")
    write(project.home / "docs/known_issues.toml", REGISTER)
    suite(project.home)
    coverage(project.home)
    benchmarks(project.home)
    return project


def test_all_of_it_is_go(ready: Project) -> None:
    status, printed = judge(ready)
    document = json.loads((ready.home / "docs/reports/readiness.json").read_text())
    assert (status, document["decision"]) == (0, "GO"), printed
    # Without `make up` there is no daemon, which `doctor` warns of.
    assert {name for name, passed in states(document).items() if not passed} == {"instance"}
    assert (document["issues_by_severity"]["high"], document["issues_by_severity"]["critical"]) == (1, 0)
    assert f"GO; {ready.home}/docs/reports/readiness.md" in printed
    assert "Low: It is slow at night (slow)" in printed
    for name in REPORTS:
        assert "planted" not in (ready.home / "docs/reports" / name).read_text()
    text = (ready.home / "docs/reports/readiness.md").read_text()
    for one in document["deliverables"]:
        assert one["exists"]
        assert (ready.home / one["path"]).stat().st_size == one["size"]
        assert f"| {one['path']} | {one['size']:,} |" in text
    assert "- Somebody is there" in text
    assert "- Who is there at night (since 2026-01-01)" in text
    environment = (ready.home / "docs/reports/environment.md").read_text()
    assert "| code location | ok | loads," in environment
    assert "| COIN_HTS_SLACK_WEBHOOK_URL | set | (secret) |" in environment
    data = (ready.home / "docs/reports/data_and_infrastructure.md").read_text()
    assert "| 1D | 1 | " in data
    assert "| whole backups | 1 |" in data
    assert "| catalog.tasks | " in data


@pytest.mark.parametrize(
    ("spoil", "mend", "status", "decision", "failed"),
    [
        (lambda home: benchmarks(home, 2.5), benchmarks, 0, "conditional GO", "benchmarks"),
        (lambda home: benchmarks(home, 11.99), benchmarks, 0, "conditional GO", "benchmarks"),
        (lambda home: benchmarks(home, 12.0), benchmarks, 1, "NO-GO", "benchmarks"),
        (lambda home: suite(home, "<failure/>"), suite, 0, "conditional GO", "tests"),
        (lambda home: coverage(home, 84.9), coverage, 0, "GO", "coverage"),
        (
            lambda home: write(home / "docs/known_issues.toml", "["),
            lambda home: write(home / "docs/known_issues.toml", REGISTER),
            1,
            "NO-GO",
            "known issues",
        ),
    ],
)
def test_one_bad_figure(ready: Project, spoil: Any, mend: Any, status: int, decision: str, failed: str) -> None:
    spoil(ready.home)
    try:
        found, document = judge(ready, "--check", "--json")
    finally:
        mend(ready.home)
    assert (found, document["decision"]) == (status, decision)
    assert states(document)[failed] is False


def test_help_says_what_comes_first(project: Project) -> None:
    done = project.coin_hts("readiness", "--help")
    assert done.returncode == 0
    assert "exit status 1 on NO-GO" in " ".join(done.stdout.split())
