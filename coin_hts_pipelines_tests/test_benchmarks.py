"""What the benchmarks judge: limits, and ratios against the committed baseline."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import benchmarks.__main__ as program
from benchmarks import baseline, measure, results
from benchmarks.measure import CHECKOUT, Row, processor_seconds, run_process

BASELINE = {"a row": 2.0}


@pytest.mark.parametrize(
    ("row", "ok"),
    [
        (Row("no limit", 5, "s"), True),
        (Row("at its limit", 5, "s", 5), True),
        (Row("above it", 5.01, "s", 5), False),
        (Row("enough", 20, "x", 20, at_least=True), True),
        (Row("too little", 19.9, "x", 20, at_least=True), False),
        (Row("not a number", float("nan"), "s", 5), False),
    ],
)
def test_a_limit(row: Row, ok: bool) -> None:
    assert row.ok is ok


@pytest.mark.parametrize(
    ("name", "ratio", "said"),
    [
        ("a row", None, ""),
        ("a row", 2.0, ""),
        ("a row", 0.1, ""),
        ("a row", 2.99, ""),
        ("a row", 3.0, "1.50x its baseline"),
        ("a row", 8.0, "4.00x its baseline"),
        ("a new row", 2.0, "no baseline"),
        ("a new row", None, ""),
    ],
)
def test_a_regression(name: str, ratio: float | None, said: str) -> None:
    found = baseline.regression(Row(name, 1, "s", ratio=ratio), BASELINE)
    assert said in found
    assert bool(said) == bool(found)


@pytest.mark.parametrize(
    ("options", "value", "ratio", "status", "said"),
    [
        ([], 5, 2.0, 0, "PASS"),
        ([], 6, 2.0, 1, "FAIL"),
        ([], 5, 3.1, 1, "FAIL"),
        (["--quick"], 5, 2.0, 0, "PASS"),
        (["--quick"], 6, 2.0, 0, "over"),
        (["--quick"], 5, 3.1, 1, "FAIL"),
    ],
)
def test_the_status_of_a_run(
    options: list[str],
    value: float,
    ratio: float,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = SimpleNamespace(__doc__="Made up.", rows=lambda: iter([Row("a row", value, "s", 5, ratio=ratio)]))
    monkeypatch.setattr(program, "QUICK", ("zone_signals",))
    monkeypatch.setattr(program, "SLOW", ())
    monkeypatch.setattr(program, "import_module", lambda name: module)
    monkeypatch.setattr(program.baseline, "load", lambda: BASELINE)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *options])
    saved: list[tuple[str, results.Measured | None]] = []
    monkeypatch.setattr(program.results, "save", lambda name, entry, names: saved.append((name, entry)))
    assert program.main() == status
    assert said in capsys.readouterr().out
    if options:
        assert saved == []
    else:
        (name, before), (_, entry) = saved
        assert (name, before) == ("zone_signals", None), "what was measured before does not outlive one that breaks"
        assert entry is not None
        assert [row.value for row in entry.rows] == [value]
        assert "Python" in entry.machine
        assert entry.at.tzinfo is not None


def test_one_that_breaks_keeps_no_older_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[Row]:
        yield Row("a row", 1, "s", 5)
        raise SystemExit("it broke")

    monkeypatch.setattr(program, "import_module", lambda name: SimpleNamespace(__doc__="Made up.", rows=rows))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "machine"])
    saved: list[results.Measured | None] = []
    monkeypatch.setattr(program.results, "save", lambda name, entry, names: saved.append(entry))
    with pytest.raises(SystemExit, match="it broke"):
        program.main()
    assert saved == [None]


def test_the_committed_rows_are_of_every_benchmark_in_order() -> None:
    assert tuple(results.load()) == program.QUICK + program.SLOW


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    baseline.save([Row("kept", 1, "s", ratio=0.123456), Row("without", 1, "s")], file)
    assert baseline.load(file) == {"kept": 0.123}
    assert json.loads(file.read_text()).keys() == {"ratios"}


@pytest.mark.parametrize(
    ("processor", "wall", "counted"),
    [
        pytest.param(lambda k: 3.0, lambda k: 4.0, 1, id="longer than the reference, waits a second"),
        pytest.param(lambda k: 0.1, lambda k: 0.1, 20, id="shorter, so repeated"),
        pytest.param(lambda k: 3.0 + k % 2, lambda k: 4.0 + 100 * (k == 3), 1, id="the least, and the median"),
    ],
)
def test_a_ratio_is_of_processor_time(
    monkeypatch: pytest.MonkeyPatch,
    processor: Callable[[int], float],
    wall: Callable[[int], float],
    counted: int,
) -> None:
    now = {"processor": 0.0, "wall": 0.0}
    calls = 0

    def call() -> None:
        nonlocal calls
        now["processor"] += processor(calls)
        now["wall"] += wall(calls)
        calls += 1

    def reference() -> None:
        now["processor"] += 2.0
        now["wall"] += 2.0

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: now["wall"]))
    monkeypatch.setattr(measure, "processor_seconds", lambda: now["processor"])
    taken = measure.against(call, reference, times=5)
    assert calls == 2 + 5 * counted
    assert taken.ratio == pytest.approx(processor(0) / 2)
    assert taken.seconds == pytest.approx(wall(0))


_SPIN = """
import time
while time.process_time() < 0.2:
    pass
"""


def test_a_process_is_measured_by_itself(tmp_path: Path) -> None:
    large = bytearray(b"x") * 200_000_000
    before = processor_seconds()
    done = run_process([sys.executable, "-c", _SPIN], tmp_path)
    assert processor_seconds() - before >= 0.2
    assert done.seconds >= 0.2
    assert done.peak_mb < 100 < measure.own_peak_mb()
    del large


def test_a_failed_process_ends_the_benchmark_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="it broke"):
        run_process([sys.executable, "-c", "raise SystemExit('it broke')"], tmp_path)


def test_the_committed_baseline_can_be_read() -> None:
    ratios = baseline.load()
    assert ratios
    assert all(ratio > 0 for ratio in ratios.values())


@pytest.mark.parametrize("name", program.QUICK + program.SLOW)
def test_a_benchmark_says_what_it_measures(name: str) -> None:
    module = import_module(f"benchmarks.{name}")
    assert (module.__doc__ or "").strip()
    assert callable(module.rows)


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["nothing"], "'nothing' is unknown"), (["machine", "--update-baseline"], "name none")],
)
def test_a_wrong_command_line_is_refused(argv: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *argv], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
