"""The readiness of this instance: collects the facts, has them judged, and writes what is handed over.

Nothing is started and nothing is changed but the reports: what does not run is a fact.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import Coverage, Database, SymbolCatalog
from coin_hts_pipelines.control import status
from coin_hts_pipelines.control.code_location import CodeLocation
from coin_hts_pipelines.control.health import examine
from coin_hts_pipelines.errors import InvalidCandles
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.lake.atomic import write_atomically
from coin_hts_pipelines.lake.candle_checks import Covered, covered_spans, freshness_problem, missing_bars, year_problems
from coin_hts_pipelines.lake.inventory import InventoryRow
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.operations import known_issues, measured
from coin_hts_pipelines.operations.health import disk_usage, read_backups
from coin_hts_pipelines.operations.instance_report import Infrastructure, environment_page, infrastructure_page
from coin_hts_pipelines.operations.readiness import Deliverable, Readiness, judge
from coin_hts_pipelines.operations.readiness_gates import Facts, Series, Unknown, ask, judge_interface
from coin_hts_pipelines.operations.readiness_report import interface_page, readiness_document, readiness_page
from coin_hts_pipelines.operations.redaction import learn_secrets, redact
from coin_hts_pipelines.operations.retention import folder_sizes, table_sizes
from coin_hts_pipelines.settings import Settings

FOLDER = Path("docs/reports")
REPORT, DOCUMENT = FOLDER / "readiness.md", FOLDER / "readiness.json"
ENVIRONMENT, INTERFACE = FOLDER / "environment.md", FOLDER / "ui_end_to_end.md"
INFRASTRUCTURE = FOLDER / "data_and_infrastructure.md"

_PATIENCE_SECONDS = 30

T = TypeVar("T")


@dataclass(frozen=True)
class Collected:
    """What was found out."""

    facts: Facts
    infrastructure: Infrastructure


def report_readiness(settings: Settings, *, write: bool = True) -> tuple[Readiness, dict[str, Any]]:
    """Judge this instance, and write the reports to `docs/reports/` unless told otherwise; also as a JSON document.

    Raises
    ------
    PermanentError, TransientError
        If a report cannot be written.
    """
    learn_secrets(settings)
    found = collect(settings)
    if write:
        _write(settings.home / ENVIRONMENT, environment_page(found.facts, settings))
        _write(settings.home / INFRASTRUCTURE, infrastructure_page(found.facts, found.infrastructure))
        _write(settings.home / INTERFACE, interface_page(found.facts))
    others = deliverables(settings.home, found.facts)
    if write:
        judged, text = _with_its_own_size(found.facts, others)
    else:
        judged, text = judge(found.facts, [*others, _deliverable(settings.home, "this report", REPORT)]), ""
    document = redact(json.dumps(readiness_document(judged, found.facts.register), indent=1, ensure_ascii=False))
    if write:
        _write(settings.home / DOCUMENT, f"{document}\n")
        _write(settings.home / REPORT, text)
    return judged, json.loads(document)


def _with_its_own_size(facts: Facts, others: list[Deliverable]) -> tuple[Readiness, str]:
    """Judge with the report among the files; its size stands in it, so it is made again until the size fits."""
    size = 1
    # A longer number makes it longer, never shorter: this ends.
    while True:
        judged = judge(facts, [*others, Deliverable("this report", str(REPORT), size, facts.at)])
        text = redact(readiness_page(judged, facts.register))
        if (found := len(text.encode())) == size:
            return judged, text
        size = found


def _write(path: Path, text: str) -> None:
    content = redact(text).encode()
    write_atomically(path, lambda stream: stream.write(content))


def deliverables(home: Path, facts: Facts) -> list[Deliverable]:
    """Everything that is handed over but the report itself; a file without measured values does not count."""

    def unknown(fact: object) -> str | None:
        return fact.reason if isinstance(fact, Unknown) else None

    interface = judge_interface(facts.suite, facts.register)
    # Skipped ones measured nothing.
    not_measured = None if "passed" in interface.measured else interface.issues[0].what
    return [
        _deliverable(home, "environment checklist", ENVIRONMENT, unknown(facts.findings)),
        _deliverable(home, "UI end-to-end results", INTERFACE, not_measured),
        _deliverable(home, "benchmark results", measured.RESULTS, unknown(facts.benchmarks)),
        _deliverable(home, "known issues", known_issues.FILE, unknown(facts.register)),
        _deliverable(home, "data and infrastructure report", INFRASTRUCTURE, unknown(facts.candles)),
    ]


def _deliverable(home: Path, name: str, path: Path, problem: str | None = None) -> Deliverable:
    try:
        found = (home / path).stat()
    except OSError:
        return Deliverable(name, str(path), None, None, problem)
    return Deliverable(name, str(path), found.st_size, datetime.fromtimestamp(found.st_mtime, UTC), problem)


# ---- facts


def collect(settings: Settings) -> Collected:
    """Find out everything; what cannot be is unknown."""
    home = settings.home
    with CodeLocation(settings) as code:
        # Nobody waits at a terminal for this one: checks have longer than `doctor` gives them.
        findings = ask(lambda: tuple(examine(settings, code, started=time.monotonic() + _PATIENCE_SECONDS)))
    return Collected(
        Facts(
            at=clock.now(),
            timeframes=settings.timeframes,
            register=ask(lambda: known_issues.read_register(home)),
            suite=ask(lambda: measured.read_suite(home)),
            coverage=ask(lambda: measured.read_coverage(home)),
            benchmarks=ask(lambda: measured.read_benchmarks(home)),
            findings=findings,
            candles=ask(lambda: tuple(_series(settings))),
            dead_letters=ask(lambda: _postgres(settings, status.dead_letters)),
            backups=ask(lambda: read_backups(settings)),
        ),
        Infrastructure(
            disks=ask(lambda: {name: (path, disk_usage(path)) for name, path in _places(settings).items()}),
            folders=ask(lambda: folder_sizes(settings)),
            tables=ask(lambda: _with_database(settings, table_sizes)),
            tasks=ask(lambda: _postgres(settings, status.task_states)),
            open_runs=ask(lambda: _postgres(settings, _open_runs)),
            runs_of_a_day=ask(lambda: _postgres(settings, status.runs_of_a_day)),
        ),
    )


def _places(settings: Settings) -> Mapping[str, Path]:
    return {"data": settings.root, "backups": settings.backups, "logs": settings.logs, "exports": settings.exports}


@contextmanager
def _connected(settings: Settings) -> Iterator[Database]:
    database = status.connect(settings)
    try:
        yield database
    finally:
        database.dispose()


def _with_database(settings: Settings, question: Callable[[Database], T]) -> T:
    with _connected(settings) as database:
        return question(database)


def _postgres(settings: Settings, question: Callable[[Session], T]) -> T:
    with _connected(settings) as database, database.session() as session:
        return question(session)


def _open_runs(session: Session) -> dict[str, int]:
    runs = status.open_runs(session)
    queued = sum(run.status == "QUEUED" for run in runs)
    return {"queued": queued, "running": len(runs) - queued}


def _series(settings: Settings) -> Iterator[Series]:
    """Read every stored candle; series of an exchange need the ledger in Postgres."""
    store = CandleStore(settings.root)
    stored = store.inventory()
    if not any("exchange:" in (row.source or "") for row in stored):
        yield from (_judged(store, row, {}, kept_up=False) for row in stored)
        return
    with _connected(settings) as database:
        ledger = Coverage(database)
        off = {one.symbol for one in SymbolCatalog(database).list() if not one.is_fetched}
        for row in stored:
            covered = covered_spans(store, row.symbol, store.timeframes(row.symbol), lambda: ledger)
            yield _judged(store, row, covered, kept_up=row.timeframe in covered and row.symbol not in off)


def _judged(store: CandleStore, row: InventoryRow, covered: Covered, *, kept_up: bool) -> Series:
    problems = _problems(store, row.symbol, row.timeframe, covered, kept_up=kept_up)
    name = row.timeframe.value
    return Series(row.symbol, name, row.source, row.rows, row.first, row.last, row.missing, row.bytes, problems)


def _problems(
    store: CandleStore, symbol: str, timeframe: Timeframe, covered: Covered, *, kept_up: bool
) -> dict[str, tuple[str, ...]]:
    """Problems of a series by check; nobody keeps up files, or a symbol that is switched off, so they are not late."""
    found: dict[str, list[str]] = {}
    years = store.years(symbol, timeframe)
    for year in years:
        now = clock.now()
        try:
            frame = store.read_year(symbol, timeframe, year)
        except InvalidCandles as error:
            found.setdefault("unreadable", []).append(str(error))
            continue
        problems = year_problems(store, symbol, timeframe, year, frame, covered, now=now)
        problems.pop("freshness", None)
        if missing_bars(frame, timeframe, year, covered.get(timeframe)).unfetched:
            problems["unfetched"] = problems.pop("gaps")
        if kept_up and year == years[-1]:
            last = frame["timestamp"].iloc[-1].to_pydatetime()
            stale = freshness_problem(last, timeframe, covered.get(timeframe), now=now)
            problems |= {"freshness": stale} if stale else {}
        for check, text in problems.items():
            found.setdefault(check, []).append(text if check == "unreadable" else f"{year}: {text}")
    return {check: tuple(texts) for check, texts in found.items()}
