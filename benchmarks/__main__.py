"""Run benchmarks and compare them with their limits and with the baseline.

`python -m benchmarks [NAME ...]` judges both and ends with status 1 if a row fails. `--quick` runs the rows that take
seconds and judges only their ratios to the reference loops: on an unknown machine (CI) a limit in milliseconds says
more about the machine than about the change, so there it is shown and nothing more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module

from benchmarks import baseline, report
from benchmarks.measure import Row

QUICK = (
    "zone_signals",
    "zone_series",
    "backtest_year",
    "backtest_small",
    "sweep_long_candle",
    "sweep_zone_breakout",
    "streaming_push",
    "cold_start",
)
SLOW = (
    "machine",
    "service_levels",
    "whole_run",
    "commands",
    "hundred_symbols",
    "task_load",
    "live_candles",
    "backup",
    "retention",
    "peers_backtest",
    "peers_sweep",
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(QUICK + SLOW)}")
    parser.add_argument("--quick", action="store_true", help="only the rows with a ratio, and judge only the ratio")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables, as in docs/benchmarks.md")
    parser.add_argument("--update-baseline", action="store_true", help="write the ratios to benchmarks/baseline.json")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - {*QUICK, *SLOW}):
        parser.error(f"{unknown[0]!r} is unknown")
    if given.update_baseline and given.names:
        parser.error("--update-baseline writes all rows; name none")
    return given


def main() -> int:
    """Measure, print, judge."""
    given = _arguments()
    known = {} if given.update_baseline else baseline.load()
    table = (report.Markdown if given.markdown else report.Text)()
    table.machine()
    measured, failed = [], 0
    for name in given.names or (QUICK if given.quick else QUICK + SLOW):
        module = import_module(f"benchmarks.{name}")
        table.heading(name, (module.__doc__ or "").strip())
        rows: Iterator[Row] = module.rows()
        for row in rows:
            worse = "" if given.update_baseline else baseline.regression(row, known)
            bad = bool(worse) or not (row.ok or given.quick)
            failed += bad
            table.row(row, "FAIL" if bad else "over" if not row.ok else "PASS" if row.limit is not None else "", worse)
            measured.append(row)
    if given.update_baseline:
        baseline.save(measured)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
