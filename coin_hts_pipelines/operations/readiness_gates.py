"""The gates of the readiness report: each judges one measured fact, says what is wrong with it, and how bad that is.

How bad something is
--------------------
- Critical: a broken function (a restore that fails, candles that break a rule, a promised count that was missed), a
  limit missed by 10 s or more, an internal error (known issues nobody can read), a failure of the infrastructure.
- High: a limit missed by 1 s or more but less than 10 s, a limited function (no daemon, dead letters, stale or missing
  candles, an old backup), failing tests, and whatever was not measured. A limit that is no time (MB, a rate, a ratio)
  is High.
- Medium: a limit missed by less than 1 s, warnings of `coin-hts doctor`, doubtful candles.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeVar

from coin_hts_pipelines.errors import CoinHtsError
from coin_hts_pipelines.operations.health import Backups, Finding, age_text
from coin_hts_pipelines.operations.known_issues import Register, Severity
from coin_hts_pipelines.operations.measured import RUN_TESTS, Benchmarks, Coverage, Row, Suite, Test

MOST_HIGH = 5
# As .ci/run asks for.
LEAST_COVERAGE = 85.0
_CRITICAL_SECONDS, _HIGH_SECONDS = Decimal(10), Decimal(1)
_IN_SECONDS = {"s": Decimal(1), "ms": Decimal("0.001")}
OLD_BENCHMARK, _OLD_BACKUP, _OLD_DRILL = timedelta(days=30), timedelta(days=2), timedelta(days=8)
# What `doctor` says about these is judged by gates of their own.
_OWN_GATES = ("backups", "candles", "queue")
# Clocks of two machines differ a little; what is measured later than that is measured by a wrong one.
_AHEAD = timedelta(minutes=5)

T = TypeVar("T")


@dataclass(frozen=True)
class Unknown:
    """A fact that could not be found out, and why."""

    reason: str


def ask(read: Callable[[], T]) -> T | Unknown:
    """Fact, or why it is unknown."""
    try:
        return read()
    except (CoinHtsError, OSError) as error:
        return Unknown(str(error) or type(error).__name__)
    except Exception as error:  # of a driver or a library: the other facts are asked for all the same
        return Unknown(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


@dataclass(frozen=True)
class Series:
    """Stored candles of a symbol and timeframe; `problems` by check, as `lake.candle_checks` has them."""

    symbol: str
    timeframe: str
    source: str | None
    rows: int
    first: datetime | None
    last: datetime | None
    missing: int
    bytes: int
    problems: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Facts:
    """Everything that is judged."""

    at: datetime
    timeframes: tuple[str, ...]
    register: Register | Unknown
    suite: Suite | Unknown
    coverage: Coverage | Unknown
    benchmarks: Benchmarks | Unknown
    findings: tuple[Finding, ...] | Unknown
    candles: tuple[Series, ...] | Unknown
    dead_letters: int | Unknown
    backups: Backups | Unknown


@dataclass(frozen=True)
class Issue:
    """Something that is wrong; `source` is the gate that found it, or the id of a known one."""

    severity: Severity
    what: str
    source: str


@dataclass(frozen=True)
class Gate:
    """One line of the table: what is asked, what was measured, and what is wrong."""

    name: str
    asked: str
    measured: str
    passed: bool
    issues: tuple[Issue, ...] = ()


def judge_gates(facts: Facts) -> tuple[Gate, ...]:
    """Every gate, in the order of the table."""
    return (
        judge_tests(facts.suite),
        judge_coverage(facts.coverage),
        judge_interface(facts.suite, facts.register),
        judge_benchmarks(facts.benchmarks, facts.at),
        judge_instance(facts.findings),
        judge_candles(facts.candles, facts.timeframes),
        judge_dead_letters(facts.dead_letters),
        judge_backup(facts.backups, facts.at),
        judge_drill(facts.backups, facts.at),
        judge_known_issues(facts.register),
    )


def out_of_date(at: datetime, now: datetime, most: timedelta) -> bool:
    """Whether something is too old to count, or of a time that has not come."""
    return not -_AHEAD <= now - at <= most


def _gate(name: str, asked: str, measured: str, wrong: Iterable[tuple[Severity, str]]) -> Gate:
    """Gate that passes if nothing is wrong."""
    issues = tuple(Issue(severity, what, name) for severity, what in wrong)
    return Gate(name, asked, measured, not issues, issues)


def _unknown(name: str, asked: str, severity: Severity, fact: Unknown) -> Gate:
    return _gate(name, asked, "not measured", [(severity, fact.reason)])


def judge_tests(suite: Suite | Unknown) -> Gate:
    """Every file of tests was run, and nothing failed."""
    name, asked = "tests", "every test passes"
    if isinstance(suite, Unknown):
        return _unknown(name, asked, Severity.HIGH, suite)
    wrong = [(Severity.HIGH, _failed(test)) for test in suite.tests.values() if test.outcome in ("failed", "error")]
    if suite.silent:
        what = f"{len(suite.silent)} files of tests have no result, first {suite.silent[0]}; {RUN_TESTS}"
        wrong.append((Severity.HIGH, what))
    if not suite.count("passed"):
        wrong.append((Severity.HIGH, f"no test passed; {RUN_TESTS}"))
    return _gate(name, asked, counts(suite.tests.values()), wrong)


def _failed(test: Test) -> str:
    return f"test {test.name} ended as {test.outcome}"


def counts(tests: Iterable[Test]) -> str:
    """How many tests ended how."""
    found = Counter(test.outcome for test in tests)
    return ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(found.items())) or "no test"


def judge_coverage(coverage: Coverage | Unknown) -> Gate:
    """Enough lines of the package were run."""
    name, asked = "coverage", f"at least {LEAST_COVERAGE:g} % of the lines"
    if isinstance(coverage, Unknown):
        return _unknown(name, asked, Severity.HIGH, coverage)
    if not math.isfinite(coverage.percent):
        return _unknown(name, asked, Severity.HIGH, Unknown(f"the coverage is {coverage.percent}; {RUN_TESTS}"))
    # Rounded down: 84.996 % are not 85.
    text = f"{math.floor(coverage.percent * 100) / 100:.2f} % of {coverage.lines:,} lines"
    enough = coverage.percent >= LEAST_COVERAGE
    return _gate(name, asked, text, [] if enough else [(Severity.HIGH, f"the tests run {text}")])


def judge_interface(suite: Suite | Unknown, register: Register | Unknown) -> Gate:
    """What a person does in the interface was done by tests, in a real browser or on real servers."""
    name, asked = "user interface", "every end-to-end test passes"
    for fact in (suite, register):
        if isinstance(fact, Unknown):
            return _unknown(name, asked, Severity.HIGH, fact)
    assert not isinstance(suite, Unknown)  # noqa: S101 - for the type checker
    assert not isinstance(register, Unknown)  # noqa: S101
    chosen: list[Test] = []
    wrong: list[tuple[Severity, str]] = []
    for pattern in register.ui_end_to_end:
        found = suite.matching(pattern)
        chosen += found
        if not found:
            wrong.append((Severity.HIGH, f"the end-to-end tests {pattern} have no result; {RUN_TESTS}"))
    wrong += [(Severity.HIGH, _failed(test)) for test in chosen if test.outcome in ("failed", "error")]
    wrong += [
        (Severity.HIGH, f"end-to-end test {test.name} was skipped: {test.reason}")
        for test in chosen
        if test.outcome == "skipped"
    ]
    if not chosen and not wrong:
        wrong.append((Severity.HIGH, "no end-to-end test is named in docs/known_issues.toml"))
    return _gate(name, asked, counts(chosen), wrong)


def judge_benchmarks(benchmarks: Benchmarks | Unknown, at: datetime) -> Gate:
    """Every benchmark was measured within 30 days, and every limit is kept."""
    name, asked = "benchmarks", "every limit is kept, measured within 30 days"
    if isinstance(benchmarks, Unknown):
        return _unknown(name, asked, Severity.HIGH, benchmarks)
    wrong: list[tuple[Severity, str]] = []
    limits = kept = 0
    for benchmark, entry in benchmarks.items():
        todo = f"run `python -m benchmarks {benchmark}` on an idle machine"
        if entry is None or not entry.rows:
            wrong.append((Severity.HIGH, f"benchmark {benchmark} was not measured; {todo}"))
            continue
        if out_of_date(entry.at, at, OLD_BENCHMARK):
            wrong.append((Severity.HIGH, f"benchmark {benchmark} was measured {entry.at:%Y-%m-%d %H:%M} UTC; {todo}"))
        limits += sum(row.limit is not None for row in entry.rows)
        kept += sum(row.limit is not None and row.kept for row in entry.rows)
        wrong += [(severity, missed_text(row)) for row in entry.rows if (severity := missed(row)) is not None]
    if not limits:
        wrong.append((Severity.HIGH, "no row with a limit was measured; run `make bench` on an idle machine"))
    return _gate(name, asked, f"{kept} of {limits} limits kept, {len(benchmarks)} benchmarks", wrong)


def missed(row: Row) -> Severity | None:
    """How bad it is that a row misses its limit; None: it keeps it, or has none.

    By the seconds where it is a time. A count without a unit (tasks lost, runs kept) is a promise about what comes
    out, so missing it is a broken function.
    """
    if row.kept or row.limit is None:
        return None
    if not row.unit:
        return Severity.CRITICAL
    if row.unit not in _IN_SECONDS or not math.isfinite(row.value):
        return Severity.HIGH
    # As written, not as floats have it: 4.1 - 3.1 is a second.
    by = abs(Decimal(repr(row.value)) - Decimal(repr(row.limit))) * _IN_SECONDS[row.unit]
    if by >= _CRITICAL_SECONDS:
        return Severity.CRITICAL
    return Severity.HIGH if by >= _HIGH_SECONDS else Severity.MEDIUM


def missed_text(row: Row) -> str:
    """What was asked and what was measured."""
    return f"{row.name}: {row_text(row)}"


def row_text(row: Row) -> str:
    """Measured value and limit."""
    limit = "" if row.limit is None else f", asked {'>=' if row.at_least else '<='} {row.limit:,g}"
    return f"{row.value:,.6g} {row.unit}".rstrip() + limit


def judge_instance(findings: tuple[Finding, ...] | Unknown) -> Gate:
    """`coin-hts doctor` has nothing to say."""
    name, asked = "instance", "`coin-hts doctor` finds nothing"
    if isinstance(findings, Unknown):
        return _unknown(name, asked, Severity.CRITICAL, findings)
    looked = [finding for finding in findings if finding.name not in _OWN_GATES]
    wrong = [(_severity(one), f"{one.name}: {one.detail}") for one in looked if one.state != "ok"]
    if not looked:
        wrong.append((Severity.CRITICAL, "nothing was looked at"))
    found = Counter(one.state for one in looked)
    return _gate(name, asked, ", ".join(f"{found[state]} {state}" for state in ("ok", "warn", "fail")), wrong)


def _severity(finding: Finding) -> Severity:
    if finding.state == "fail":
        return Severity.CRITICAL
    # Without it nothing happens by itself.
    return Severity.HIGH if finding.name == "daemon" else Severity.MEDIUM


# What a problem of candles is worth; outliers are shown only, a market has them.
_CANDLES = {
    "unreadable": Severity.CRITICAL,
    "schema": Severity.CRITICAL,
    "grid": Severity.CRITICAL,
    "unfetched": Severity.HIGH,
    "freshness": Severity.HIGH,
    "gaps": Severity.MEDIUM,
    "agreement": Severity.MEDIUM,
}


def judge_candles(candles: tuple[Series, ...] | Unknown, timeframes: Sequence[str]) -> Gate:
    """Every timeframe has candles, all keep the rules, none is late, and nothing was left out."""
    name, asked = "candles", f"{', '.join(timeframes)} are there; whole, fresh and sound"
    if isinstance(candles, Unknown):
        return _unknown(name, asked, Severity.CRITICAL, candles)
    rows = {timeframe: sum(one.rows for one in candles if one.timeframe == timeframe) for timeframe in timeframes}
    wrong = [(Severity.HIGH, f"there are no {timeframe} candles") for timeframe, count in rows.items() if not count]
    for check, severity in _CANDLES.items():
        bad = [(one, one.problems[check]) for one in candles if one.problems.get(check)]
        if bad:
            first, texts = bad[0]
            wrong.append((severity, f"{check}: {len(bad)} series, first {first.symbol} {first.timeframe}: {texts[0]}"))
    measured = ", ".join(f"{count:,} {timeframe}" for timeframe, count in rows.items())
    return _gate(name, asked, f"{measured} of {len({one.symbol for one in candles})} symbols", wrong)


def judge_dead_letters(letters: int | Unknown) -> Gate:
    """No task waits for a person."""
    name, asked = "dead letters", "none is open"
    if isinstance(letters, Unknown):
        return _unknown(name, asked, Severity.CRITICAL, letters)
    wrong = [(Severity.HIGH, f"{letters} dead letters are open; see `coin-hts task dead list`")] if letters else []
    return _gate(name, asked, f"{letters} open", wrong)


def judge_backup(backups: Backups | Unknown, at: datetime) -> Gate:
    """There is a backup not older than two days."""
    name, asked = "backup", "the newest is at most 2 days old"
    if isinstance(backups, Unknown):
        return _unknown(name, asked, Severity.CRITICAL, backups)
    todo = "`coin-hts backup create` makes one"
    if backups.newest is None:
        return _gate(name, asked, "none", [(Severity.CRITICAL, f"there is no backup; {todo}")])
    text = f"{age_text(at - backups.newest)} old, of {backups.count}"
    old = out_of_date(backups.newest, at, _OLD_BACKUP)
    return _gate(name, asked, text, [(Severity.HIGH, f"the newest backup is {text}; {todo}")] if old else [])


def judge_drill(backups: Backups | Unknown, at: datetime) -> Gate:
    """The newest backup was restored for practice within eight days, and it went well."""
    name, asked = "restore drill", "the last, at most 8 days ago, passed"
    if isinstance(backups, Unknown):
        return _unknown(name, asked, Severity.CRITICAL, backups)
    todo = "run `coin-hts backup drill`"
    if backups.drill_at is None:
        return _gate(name, asked, "none", [(Severity.HIGH, f"no backup was ever restored for practice; {todo}")])
    text = f"{'passed' if backups.drill_passed else 'failed'} {age_text(at - backups.drill_at)} ago"
    if not backups.drill_passed:
        return _gate(name, asked, text, [(Severity.CRITICAL, f"the last restore drill {text}; {todo}")])
    old = out_of_date(backups.drill_at, at, _OLD_DRILL)
    return _gate(name, asked, text, [(Severity.HIGH, f"the last restore drill {text}; {todo}")] if old else [])


def judge_known_issues(register: Register | Unknown) -> Gate:
    """Nothing Critical is known, and at most five issues are High."""
    name, asked = "known issues", f"0 critical, at most {MOST_HIGH} high"
    if isinstance(register, Unknown):
        return _unknown(name, asked, Severity.CRITICAL, register)
    found = Counter(one.severity for one in register.issue)
    issues = tuple(Issue(one.severity, one.title, one.id) for one in register.issue)
    passed = not found[Severity.CRITICAL] and found[Severity.HIGH] <= MOST_HIGH
    return Gate(name, asked, ", ".join(f"{found[one]} {one}" for one in Severity), passed, issues)
