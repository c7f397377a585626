"""Whether this may be started for good, decided from gates, deliverables and the definition of done. Pure.

NO-GO: something Critical is open. GO: nothing is, at most five issues are High, every deliverable is there, and every
line of the definition of done is ticked by a measured value. Conditional GO: anything else, with the list of what is
open. What makes an issue Critical or High is said in `operations.readiness_gates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from coin_hts_pipelines.operations.known_issues import DoneLine, Severity
from coin_hts_pipelines.operations.measured import Benchmarks, Suite
from coin_hts_pipelines.operations.readiness_gates import (
    MOST_HIGH,
    OLD_BENCHMARK,
    Facts,
    Gate,
    Issue,
    Unknown,
    counts,
    judge_gates,
    missed_text,
    out_of_date,
)


class Decision(StrEnum):
    """What comes out."""

    GO = "GO"
    CONDITIONAL = "conditional GO"
    NO_GO = "NO-GO"


@dataclass(frozen=True)
class Ticked:
    """A line of the definition of done with the measured values that tick it, or do not."""

    text: str
    done: bool
    measured: tuple[str, ...]


@dataclass(frozen=True)
class Deliverable:
    """A file that is handed over; a `problem` says why it does not count although it may be there."""

    name: str
    path: str
    size: int | None
    at: datetime | None
    problem: str | None = None

    @property
    def exists(self) -> bool:
        """Whether it is there, with something in it that was measured."""
        return bool(self.size) and self.at is not None and self.problem is None


@dataclass(frozen=True)
class Readiness:
    """The whole judgement."""

    at: datetime
    gates: tuple[Gate, ...]
    issues: tuple[Issue, ...]
    deliverables: tuple[Deliverable, ...]
    done: tuple[Ticked, ...]

    def count(self, severity: Severity) -> int:
        """Number of open issues of a severity."""
        return sum(issue.severity is severity for issue in self.issues)

    @property
    def decision(self) -> Decision:
        """What is decided (see the top of this module)."""
        if self.count(Severity.CRITICAL):
            return Decision.NO_GO
        return Decision.CONDITIONAL if any(self._unmet()) else Decision.GO

    def _unmet(self) -> Iterator[str]:
        if (high := self.count(Severity.HIGH)) > MOST_HIGH:
            yield f"{high} issues are High, at most {MOST_HIGH} may be"
        for one in self.deliverables:
            if not one.exists:
                yield f"deliverable {one.name}: {one.problem or 'there is no file'}"
        for line in self.done:
            if not line.done:
                yield f"not done: {line.text} ({'; '.join(line.measured)})"
        if not self.done:
            yield "the definition of done has no line"

    @property
    def open(self) -> tuple[str, ...]:
        """What is open: what keeps it from GO, then every issue, the worst first."""
        return (*self._unmet(), *(f"{one.severity.capitalize()}: {one.what} ({one.source})" for one in self.issues))


def judge(facts: Facts, deliverables: Sequence[Deliverable]) -> Readiness:
    """Judge facts and files."""
    gates = judge_gates(facts)
    ranks = list(Severity)
    # The same failed test is found by two gates and is one issue.
    unique = {(issue.severity, issue.what): issue for gate in reversed(gates) for issue in gate.issues}
    issues = sorted(unique.values(), key=lambda one: (ranks.index(one.severity), one.source, one.what))
    lines = () if isinstance(facts.register, Unknown) else facts.register.done
    return Readiness(
        facts.at, gates, tuple(issues), tuple(deliverables), tuple(tick(line, facts, gates) for line in lines)
    )


# ---- the definition of done


def tick(line: DoneLine, facts: Facts, gates: Sequence[Gate]) -> Ticked:
    """Look up the measured values of a line; it is ticked only if there is one and all are good."""
    found = [_measure(text, facts, gates) for text in line.measured_by]
    if not found:
        return Ticked(line.text, False, ("nothing measures it",))
    return Ticked(line.text, all(good for good, _ in found), tuple(text for _, text in found))


def _measure(text: str, facts: Facts, gates: Sequence[Gate]) -> tuple[bool, str]:
    kind, _, what = text.partition(" ")
    if kind == "gate":
        chosen = [gate for gate in gates if gate.name == what]
        state = f"{'PASS' if chosen[0].passed else 'FAIL'}, {chosen[0].measured}" if chosen else "unknown"
        return bool(chosen) and chosen[0].passed, f"gate {what}: {state}"
    if kind == "test":
        return _measure_tests(what, facts.suite)
    benchmark, _, name = what.partition(": ")
    return _measure_row(benchmark, name, facts.benchmarks, facts.at)


def _measure_tests(pattern: str, suite: Suite | Unknown) -> tuple[bool, str]:
    if isinstance(suite, Unknown):
        return False, f"test {pattern}: not measured"
    found = suite.matching(pattern)
    outcomes = {test.outcome for test in found}
    # A skipped test measured nothing, also beside others.
    return outcomes == {"passed"}, f"test {pattern}: {counts(found)}"


def _measure_row(benchmark: str, name: str, benchmarks: Benchmarks | Unknown, at: datetime) -> tuple[bool, str]:
    entry = None if isinstance(benchmarks, Unknown) else benchmarks.get(benchmark)
    rows = [row for row in entry.rows if row.name == name] if entry else []
    if entry is None or not rows or out_of_date(entry.at, at, OLD_BENCHMARK):
        return False, f"{name}: not measured"
    good = rows[0].limit is not None and all(row.kept for row in rows)
    return good, missed_text(rows[0])
