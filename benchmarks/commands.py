"""Commands a person waits for: `--help`, `definitions validate`, the main job twice."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import BIN, Row, run_process, scratch_project


def rows() -> Iterator[Row]:
    """Measure each command as a whole process."""
    with scratch_project() as home:
        run_process([BIN / "coin-hts", "--help"], home)
        yield Row("coin-hts --help", run_process([BIN / "coin-hts", "--help"], home).seconds, "s", 0.5)
        first = run_process([BIN / "coin-hts", "run"], home)
        yield Row("make run, first (after install)", first.seconds, "s", 60, note=f"peak {first.peak_mb:,.0f} MB")
        second = run_process([BIN / "coin-hts", "run"], home)
        yield Row("make run, second", second.seconds, "s", 30, note=f"peak {second.peak_mb:,.0f} MB")
        validate = run_process([BIN / "dagster", "definitions", "validate"], home)
        yield Row("dagster definitions validate", validate.seconds, "s", 6)
