"""Figures in the documents: written between marks, and those that are committed are current."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import figures, report, results
from benchmarks.figures import WrongMarks, renewed
from benchmarks.measure import CHECKOUT, Row

RENDERERS = {"one": lambda: "1", "two": lambda: "2\n2"}
BEGIN, END = "<!-- figures:{} -->", "<!-- /figures -->"


def document(*lines: str) -> str:
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (document("no figures"), document("no figures")),
        (document(BEGIN.format("one"), END), document(BEGIN.format("one"), "1", END)),
        (document("a", BEGIN.format("one"), "typed", END, "b"), document("a", BEGIN.format("one"), "1", END, "b")),
        (
            document(BEGIN.format("two"), "9", "9", END, "-", BEGIN.format("one"), END),
            document(BEGIN.format("two"), "2", "2", END, "-", BEGIN.format("one"), "1", END),
        ),
        # Marks stand on a line of their own; in a text they are spoken of.
        (document(f"`{BEGIN.format('one')}` and `{END}`"), document(f"`{BEGIN.format('one')}` and `{END}`")),
    ],
)
def test_figures_are_written_between_their_marks(before: str, after: str) -> None:
    assert renewed(before, "a.md", RENDERERS) == after
    assert renewed(after, "a.md", RENDERERS) == after


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (document("a", BEGIN.format("one"), "1"), "a.md:2: the figures one have no end"),
        (document(BEGIN.format("one"), BEGIN.format("two"), END), "a.md:1: the figures one do not end"),
        (document("a", END), "a.md:2: figures end here, but they began nowhere"),
        (document(BEGIN.format("one"), END, END), "a.md:3: figures end here"),
        (document(BEGIN.format("three"), END), "a.md:1: figures three are unknown; known: one, two"),
    ],
)
def test_marks_that_do_not_fit(text: str, said: str) -> None:
    with pytest.raises(WrongMarks, match=said):
        renewed(text, "a.md", RENDERERS)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one document."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(document("a", BEGIN.format("one"), "typed", END))
    monkeypatch.setattr(figures, "CHECKOUT", tmp_path)
    monkeypatch.setattr(figures, "documents", lambda: [tmp_path / "README.md", *sorted((tmp_path / "docs").iterdir())])
    monkeypatch.setattr(figures, "RENDERERS", RENDERERS)
    return tmp_path


def test_a_check_fails_until_they_are_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, old = place / "README.md", (place / "README.md").read_text()
    monkeypatch.setattr(sys, "argv", ["figures", "--check"])
    assert figures.main() == 1
    assert "README.md: its figures are not current; run make figures" in capsys.readouterr().err
    assert readme.read_text() == old
    monkeypatch.setattr(sys, "argv", ["figures"])
    assert figures.main() == 0
    assert readme.read_text() == document("a", BEGIN.format("one"), "1", END)
    monkeypatch.setattr(sys, "argv", ["figures", "--check"])
    assert figures.main() == 0


def test_wrong_marks_fail_both_and_change_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "docs" / "b.md").write_text(document(BEGIN.format("one")))
    for argv in (["figures"], ["figures", "--check"]):
        monkeypatch.setattr(sys, "argv", argv)
        assert figures.main() == 1
        assert "docs/b.md:1: the figures one have no end" in capsys.readouterr().err
    assert (place / "docs" / "b.md").read_text() == document(BEGIN.format("one"))


def test_the_committed_documents_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.figures", "--check"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_compiled_to_write_figures() -> None:
    script = "import sys, benchmarks.figures as f; f.benchmark_tables(); print({'numba', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_measured_row_stands_in_the_table() -> None:
    text = (CHECKOUT / "docs" / "benchmarks.md").read_text()
    for name, entry in results.load().items():
        assert f"\n### {name}\n" in text
        for row in entry.rows if entry else ():
            assert f"| {row.name} | {report.number(row.value)} {row.unit} |" in text


# ---- tables

AT = datetime(2026, 1, 2, tzinfo=UTC)
ROWS = (
    Row("kept", 1.234, "s", 2, bound=0.5, bound_by="imports"),
    Row("missed", 3, "s", 2, bound=0.5, bound_by="imports", note="why"),
    Row("slower", 1, "s", 2, ratio=3.0),
    Row("rate", 1234.5, "/s", 1000, at_least=True),
    Row("shown", 0.00012, "s"),
)


def test_a_table_says_what_passed_and_what_did_not() -> None:
    measured = results.Measured(AT, "a machine", "abc", ROWS)
    lines = report.markdown({"machine": measured}, {"slower": 2.0}).splitlines()
    assert lines[0] == "### machine"
    assert lines[4] == "2026-01-02, commit abc, a machine."
    assert lines[8:] == [
        "| kept | 1.23 s | <= 2 | PASS | 0.5 s: imports | 2.5x |  |",
        "| missed | 3 s | <= 2 | FAIL | 0.5 s | 6.0x | why |",
        "| slower | 1 s | <= 2 | FAIL |  |  | 1.50x its baseline |",
        "| rate | 1,234 /s | >= 1,000 | PASS |  |  |  |",
        "| shown | 1.2e-04 s |  |  |  |  |  |",
    ]


def test_on_what_it_was_measured_stands_where_it_changes() -> None:
    one, other = (results.Measured(AT, machine, None, ROWS[:1]) for machine in ("a machine", "another"))
    names = ("machine", "commands", "backup", "retention")
    text = report.markdown(dict(zip(names, (one, one, other, None), strict=True)), {})
    assert text.count("2026-01-02, a machine.") == 1
    assert text.count("2026-01-02, another.") == 1
    assert "Not measured yet: `python -m benchmarks retention`." in text


# ---- the README


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> dict[str, results.Measured | None]:
    found = results.load()
    monkeypatch.setattr(figures.results, "load", lambda: found)
    return found


def test_what_is_not_measured_is_said(entries: dict[str, results.Measured | None]) -> None:
    assert "(not measured)" not in figures.speed()
    entries["commands"] = entries["peers_backtest"] = None
    text = figures.speed()
    assert "after the install (not measured), second (not measured)" in text
    assert "is (not measured) times as fast as vectorbt" in text


def test_a_row_that_is_gone_is_an_error(entries: dict[str, results.Measured | None]) -> None:
    entries["commands"] = results.Measured(AT, "a machine", None, ROWS)
    with pytest.raises(WrongMarks, match="needs the row 'make run, first"):
        figures.speed()


def test_the_last_readiness(tmp_path: Path) -> None:
    file = tmp_path / "readiness.json"
    assert "No readiness report is committed" in figures.readiness(file)
    gates = [{"passed": True}, {"passed": False}]
    counts = {"critical": 0, "high": 2}
    file.write_text(
        json.dumps(
            {"at": "2026-01-02T03:04:05+00:00", "decision": "NO-GO", "gates": gates, "issues_by_severity": counts}
        )
    )
    assert figures.readiness(file) == (
        "The last [readiness report](docs/reports/readiness.md) (2026-01-02): **NO-GO**, 1 of 2 gates passed; "
        "open: 0 critical, 2 high."
    )
