"""Commands a person waits for: `--help`, `definitions validate`, the main job twice."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import BIN, Row, run_process, scratch_project


def rows() -> Iterator[Row]:
    """Measure each command as a whole process."""
    with scratch_project() as home:
        run_process([str(BIN / "coin-hts"), "--help"], home)
        yield Row("coin-hts --help", run_process([str(BIN / "coin-hts"), "--help"], home).seconds, 0.5, "s")
        first = run_process([str(BIN / "coin-hts"), "run"], home)
        yield Row("make run, first (after install)", first.seconds, 60, "s", f"peak {first.peak_mb:,.0f} MB")
        second = run_process([str(BIN / "coin-hts"), "run"], home)
        yield Row("make run, second", second.seconds, 30, "s", f"peak {second.peak_mb:,.0f} MB")
        validate = run_process([str(BIN / "dagster"), "definitions", "validate"], home)
        yield Row("dagster definitions validate", validate.seconds, 6, "s")
