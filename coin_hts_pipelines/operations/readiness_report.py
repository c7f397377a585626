"""The readiness report as Markdown and JSON, and the results of the end-to-end tests: tables, no judgement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from coin_hts_pipelines.operations.known_issues import Register, Severity
from coin_hts_pipelines.operations.measured import Test
from coin_hts_pipelines.operations.readiness import Deliverable, Readiness
from coin_hts_pipelines.operations.readiness_gates import Facts, Unknown, counts

_SEVERITIES = """\
Critical: a broken function, a limit missed by 10 s or more, an internal error, a failure of the infrastructure. High: a
limit missed by 1 s or more, one that is no time, a limited function, a failing test, anything not measured. Medium: a
limit missed by less than 1 s, a warning. GO: nothing Critical, at most 5 High, every deliverable there, every line of
the definition of done ticked; NO-GO: anything Critical; conditional GO: the rest."""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], nothing: str = "None.") -> str:
    """Markdown table, or a sentence if there is no row."""
    lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *lines]) if lines else nothing


def cell(value: object) -> str:
    """One line of text that ends no cell."""
    return " ".join(("–" if value is None else str(value)).replace("|", "\\|").split())


def moment(at: datetime | None) -> str | None:
    """A moment to the minute."""
    return None if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def page(title: str, at: datetime, sections: Sequence[tuple[str, str]]) -> str:
    """One document, and who wrote it."""
    parts = [f"# {title}", f"Written by `coin-hts readiness`, {moment(at)}; not by hand."]
    parts += [f"## {heading}\n\n{text}" if heading else text for heading, text in sections]
    return "\n\n".join(parts) + "\n"


def readiness_page(found: Readiness, register: Register | Unknown) -> str:
    """Markdown of the report."""
    gates = table(
        ("gate", "", "asked", "measured"),
        [(gate.name, "PASS" if gate.passed else "**FAIL**", gate.asked, gate.measured) for gate in found.gates],
    )
    files = table(("deliverable", "", "file", "bytes", "time"), map(_file, found.deliverables))
    done = table(
        ("", "line", "measured"),
        [("done" if line.done else "**open**", line.text, "; ".join(line.measured)) for line in found.done],
    )
    open_list = "\n".join(f"- {cell(text)}" for text in found.open) or "Nothing."
    numbers = ", ".join(f"{found.count(severity)} {severity}" for severity in Severity)
    sections = [
        ("", f"**{found.decision}**. Issues: {numbers}.\n\n{_SEVERITIES}"),
        ("Gates", gates),
        ("Open", open_list),
        ("Deliverables", files),
        ("Definition of done", done),
        *_written_down(register),
    ]
    return page("Readiness", found.at, sections)


def _file(one: Deliverable) -> tuple[object, ...]:
    state = "there" if one.exists else f"**missing**: {one.problem or 'there is no file'}"
    return one.name, state, one.path, None if one.size is None else f"{one.size:,}", moment(one.at)


def _written_down(register: Register | Unknown) -> list[tuple[str, str]]:
    if isinstance(register, Unknown):
        return [("Known issues, start conditions, open decisions", register.reason)]
    issues = [(one.id, one.severity, one.title, one.since, one.workaround) for one in register.issue]
    conditions = "\n".join(f"- {cell(one.text)}" for one in register.start_condition)
    decisions = "\n".join(f"- {cell(one.text)} (since {one.since})" for one in register.open_decision)
    return [
        ("Known issues", table(("id", "severity", "what", "since", "until it is mended"), issues)),
        ("Start conditions", conditions or "None."),
        ("Open decisions", decisions or "None."),
    ]


def readiness_document(found: Readiness, register: Register | Unknown) -> dict[str, Any]:
    """Return the report for programs; times are ISO 8601 in UTC."""
    written = None if isinstance(register, Unknown) else register.model_dump(mode="json", exclude={"done"})
    return {
        "at": found.at.isoformat(timespec="seconds"),
        "decision": found.decision.value,
        "issues_by_severity": {severity.value: found.count(severity) for severity in Severity},
        "gates": [asdict(gate) for gate in found.gates],
        "issues": [asdict(issue) for issue in found.issues],
        "open": list(found.open),
        "deliverables": [_deliverable(one) for one in found.deliverables],
        "definition_of_done": [asdict(line) for line in found.done],
        "written_down": written,
    }


def _deliverable(one: Deliverable) -> dict[str, Any]:
    at = None if one.at is None else one.at.isoformat(timespec="seconds")
    return {**asdict(one), "at": at, "exists": one.exists}


def interface_page(facts: Facts) -> str:
    """Markdown of the results of the end-to-end tests, file by file."""
    if isinstance(facts.suite, Unknown) or isinstance(facts.register, Unknown):
        reasons = [fact.reason for fact in (facts.suite, facts.register) if isinstance(fact, Unknown)]
        return page("End-to-end results of the user interface", facts.at, [("", f"Not measured: {reasons[0]}.")])
    chosen = {test.name: test for pattern in facts.register.ui_end_to_end for test in facts.suite.matching(pattern)}
    files: dict[str, list[Test]] = {}
    for name, test in chosen.items():
        files.setdefault(name.partition("::")[0], []).append(test)
    text = (
        f"{counts(chosen.values())}; the tests began {moment(facts.suite.began)}. Pages are opened in a headless "
        "Chromium, commands and the servers of `coin-hts up` are processes of their own."
    )
    sections = [("", text)]
    for file, tests in files.items():
        rows = [
            (one.name.partition("::")[2], one.outcome, f"{one.seconds:,.1f} s", one.reason or None) for one in tests
        ]
        sections.append((file, table(("test", "ended as", "took", "why"), rows)))
    return page("End-to-end results of the user interface", facts.at, sections)
