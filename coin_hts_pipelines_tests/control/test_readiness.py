"""The facts of an instance, and the files that are handed over: what is there, and what counts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import Database, SymbolCatalog
from coin_hts_pipelines.catalog.coverage import Coverage
from coin_hts_pipelines.control import readiness
from coin_hts_pipelines.control.readiness import collect, deliverables, report_readiness
from coin_hts_pipelines.errors import PermanentError
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.operations.health import Finding
from coin_hts_pipelines.operations.readiness import Decision
from coin_hts_pipelines.operations.readiness_gates import Facts, Series, Unknown
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.lake.helpers import candles

__all__ = ["_migrated", "database", "new_database"]

ORIGIN = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
UPBIT = "exchange:upbit"
REGISTER = """
ui_end_to_end = ["ui/"]
[[done]]
text = "all is well"
measured_by = ["gate dead letters"]
"""


class _Code:
    """A code location that loads."""

    def __init__(self, settings: Settings) -> None:
        """Start nothing."""

    def __enter__(self) -> _Code:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was started."""

    def finding(self, until: float) -> Finding:
        return Finding("code location", "ok", "loads")


@pytest.fixture(autouse=True)
def _ten_days_later(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Noon of January 11th, 2024: bars 0 to 9 are closed."""
    monkeypatch.setattr(readiness, "CodeLocation", _Code)
    with clock.simulated(lambda: ORIGIN + 10.5 * DAY):
        yield


@pytest.fixture
def settings(tmp_path: Path, database: Database) -> Settings:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "known_issues.toml").write_text(REGISTER)
    return Settings(
        home=tmp_path,
        database_url=database.url.render_as_string(hide_password=False),
        timeframes=("1D",),
        slack_webhook_url="https://hooks.slack.com/services/T0/B0/planted-secret",
    )


@pytest.fixture
def store(settings: Settings) -> CandleStore:
    return CandleStore(settings.root)


def found_series(settings: Settings) -> dict[str, Series]:
    found = collect(settings).facts.candles
    assert not isinstance(found, Unknown), found
    return {one.symbol: one for one in found}


def test_series_with_their_problems(store: CandleStore, settings: Settings, database: Database) -> None:
    holes = candles(10).drop(index=[3, 7])
    store.merge("KRW-A", "1D", candles(10), source=UPBIT)
    store.merge("KRW-B", "1D", holes, source=UPBIT)
    store.merge("KRW-C", "1D", holes, source="files")
    store.merge("KRW-D", "1D", candles(4), source=UPBIT)
    store.merge("KRW-E", "1D", candles(4), source=UPBIT)
    store.merge("KRW-F", "1D", candles(4), source="files")
    store.merge("KRW-G", "1D", candles(4), source="files")
    Path(store.files.path("KRW-G", Timeframe.D1, 2024)).write_bytes(b"PAR1")
    ledger = Coverage(database)
    ledger.add(UPBIT, "KRW-A", "1D", ORIGIN, ORIGIN + 9 * DAY)
    ledger.add(UPBIT, "KRW-B", "1D", ORIGIN, ORIGIN + 6 * DAY)
    for symbol in ("KRW-D", "KRW-E"):
        ledger.add(UPBIT, symbol, "1D", ORIGIN, ORIGIN + 3 * DAY)
    catalog = SymbolCatalog(database)
    catalog.add("upbit", ["KRW-A", "KRW-B", "KRW-D", "KRW-E"])
    catalog.switch(["KRW-A", "KRW-B", "KRW-D"], on=True)
    catalog.switch(["KRW-E"], on=False)
    found = found_series(settings)
    assert {symbol: set(one.problems) for symbol, one in found.items()} == {
        "KRW-A": set(),
        "KRW-B": {"unfetched"},
        "KRW-C": {"gaps"},
        "KRW-D": {"freshness"},
        "KRW-E": set(),
        "KRW-F": set(),
        "KRW-G": {"unreadable"},
    }
    one = found["KRW-B"]
    assert (one.timeframe, one.source, one.rows, one.missing) == ("1D", UPBIT, 8, 2)
    assert (one.first, one.last) == (ORIGIN, ORIGIN + 9 * DAY)
    assert one.problems["unfetched"] == ("2024: 1 bars never fetched, first 2024-01-08T00:00:00Z",)


def test_rules_that_are_broken_are_named_by_year(
    store: CandleStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.merge("KRW-A", "1D", candles(800, start="2022-01-01"), source="files")
    monkeypatch.setattr(
        readiness, "year_problems", lambda *given, now: {"schema": "high below low"} if given[3] == 2023 else {}
    )
    assert found_series(settings)["KRW-A"].problems == {"schema": ("2023: high below low",)}


def test_series_of_files_need_no_database(store: CandleStore, settings: Settings) -> None:
    store.merge("KRW-A", "1D", candles(10), source="files")
    away = settings.model_copy(update={"database_url": None})
    found = collect(away)
    assert isinstance(found.facts.candles, tuple)
    assert "is not running" in found.facts.dead_letters.reason
    assert "is not running" in found.infrastructure.tables.reason
    store.merge("KRW-B", "1D", candles(10), source=UPBIT)
    assert "is not running" in collect(away).facts.candles.reason


def test_what_the_instance_is(settings: Settings) -> None:
    found = collect(settings)
    assert found.facts.dead_letters == 0
    assert found.facts.backups.count == 0
    assert found.facts.at == ORIGIN + 10.5 * DAY
    assert "code location" in {one.name for one in found.facts.findings}
    assert "catalog.tasks" in {one.name for one in found.infrastructure.tables}
    assert set(found.infrastructure.disks) == {"data", "backups", "logs", "exports"}
    assert found.infrastructure.open_runs == {"queued": 0, "running": 0}
    assert found.infrastructure.tasks["queued"] == 0
    assert found.facts.suite == Unknown(
        f"there is no report of tests in {settings.home}/build/reports; run `make test`"
    )


# ---- what is handed over


def report(home: Path, outcome: str) -> None:
    (home / "build" / "reports").mkdir(parents=True, exist_ok=True)
    (home / "build" / "reports" / "junit.xml").write_text(
        '<testsuite timestamp="2026-01-01T00:00:00+00:00"><testcase time="1" name="test_a" '
        f'classname="coin_hts_pipelines_tests.ui.test_page">{outcome}</testcase></testsuite>'
    )


def results(home: Path, text: str = '{"benchmarks": {}}') -> None:
    (home / "benchmarks").mkdir(exist_ok=True)
    (home / "benchmarks" / "results.json").write_text(text)


def test_every_deliverable_has_its_size_and_time(settings: Settings) -> None:
    report(settings.home, "")
    results(settings.home)
    judged, document = report_readiness(settings)
    assert [one.name for one in judged.deliverables] == [
        "environment checklist",
        "UI end-to-end results",
        "benchmark results",
        "known issues",
        "data and infrastructure report",
        "this report",
    ]
    assert all(one.exists for one in judged.deliverables)
    for one in judged.deliverables:
        assert (settings.home / one.path).stat().st_size == one.size
        assert one.at is not None
    assert document == json.loads((settings.home / "docs/reports/readiness.json").read_text())
    text = (settings.home / "docs/reports/readiness.md").read_text()
    assert (
        f"| this report | there | docs/reports/readiness.md | {len(text.encode()):,} | 2024-01-11 12:00 UTC |" in text
    )


@pytest.mark.parametrize(
    ("name", "spoil", "problem"),
    [
        (
            "UI end-to-end results",
            lambda home: report(home, "<skipped message='no browser'/>"),
            "was skipped: no browser",
        ),
        (
            "UI end-to-end results",
            lambda home: (home / "build/reports/junit.xml").unlink(),
            "there is no report of tests",
        ),
        ("benchmark results", lambda home: results(home, "{"), "cannot be read"),
        ("benchmark results", lambda home: (home / "benchmarks/results.json").unlink(), "there is no file of measured"),
        ("known issues", lambda home: (home / "docs/known_issues.toml").write_text("["), "cannot be read"),
        ("known issues", lambda home: (home / "docs/known_issues.toml").unlink(), "nobody knows"),
    ],
)
def test_a_file_that_measures_nothing_does_not_count(settings: Settings, name, spoil, problem: str) -> None:
    report(settings.home, "")
    results(settings.home)
    spoil(settings.home)
    judged, _ = report_readiness(settings)
    bad = {one.name: one.problem for one in judged.deliverables if not one.exists}
    # Which tests are those of the interface stands among the known issues.
    assert bad.keys() - {"UI end-to-end results"} == {name} - {"UI end-to-end results"}
    assert problem in bad[name]
    assert judged.decision is not Decision.GO


def test_a_report_of_another_day_does_not_count_without_its_facts(settings: Settings) -> None:
    report_readiness(settings)
    facts = collect(settings).facts
    lost = Facts(**{**vars(facts), "findings": Unknown("no answer"), "candles": Unknown("no disk")})
    found = {one.name: one.problem for one in deliverables(settings.home, lost)}
    assert found["environment checklist"] == "no answer"
    assert found["data and infrastructure report"] == "no disk"


def test_only_judging_writes_nothing(settings: Settings) -> None:
    judged, document = report_readiness(settings, write=False)
    assert not (settings.home / "docs" / "reports").exists()
    assert document["decision"] == judged.decision
    missing = {one.name for one in judged.deliverables if not one.exists}
    assert {"this report", "environment checklist", "data and infrastructure report"} <= missing


def test_no_secret_is_written(settings: Settings) -> None:
    report(settings.home, "<skipped message='no answer of https://hooks.slack.com/services/T0/B0/planted-secret'/>")
    (settings.home / "docs" / "known_issues.toml").write_text(
        REGISTER.replace("all is well", "told by https://hooks.slack.com/services/T0/B0/planted-secret")
    )
    _, document = report_readiness(settings)
    written = [path.read_text() for path in (settings.home / "docs" / "reports").iterdir()]
    assert len(written) == 5
    assert sum("no answer of ***" in text for text in written) == 3
    assert not [text for text in [*written, json.dumps(document)] if "planted-secret" in text]


def test_the_size_that_stands_in_it_is_right_at_every_length(settings: Settings, monkeypatch) -> None:
    facts = collect(settings).facts
    lengths = set()
    for padding in range(0, 1200, 97):
        page = readiness.readiness_page

        def padded(judged, register, page=page, padding=padding) -> str:
            return page(judged, register) + "x" * padding

        with monkeypatch.context() as patched:
            patched.setattr(readiness, "readiness_page", padded)
            _, text = readiness._with_its_own_size(facts, [])
        said = re.search(r"\| docs/reports/readiness\.md \| ([\d,]+) \|", text)
        assert said is not None
        assert int(said[1].replace(",", "")) == len(text.encode())
        lengths.add(len(text))
    assert len(lengths) == 13


def test_a_folder_that_cannot_be_written_is_an_error(settings: Settings) -> None:
    (settings.home / "docs" / "reports").write_text("in the way")
    with pytest.raises(PermanentError, match="docs/reports"):
        report_readiness(settings)
