"""Run benchmarks and compare them with their limits and with the baseline.

`python -m benchmarks [NAME ...]` judges both, keeps what it measured in `results.json` and ends with status 1 if a row
fails. `--quick` runs the rows that take seconds, judges only their ratios to the reference loops and keeps nothing: on
an unknown machine (CI) a limit in milliseconds says more about the machine than about the change, so there it is shown
and nothing more.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from importlib import import_module

from benchmarks import baseline, report, results

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
    "operations",
    "peers_backtest",
    "peers_sweep",
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(QUICK + SLOW)}")
    parser.add_argument("--quick", action="store_true", help="only the rows with a ratio, and judge only the ratio")
    parser.add_argument("--update-baseline", action="store_true", help="write the ratios to benchmarks/baseline.json")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - {*QUICK, *SLOW}):
        parser.error(f"{unknown[0]!r} is unknown")
    if given.update_baseline and given.names:
        parser.error("--update-baseline writes all rows; name none")
    return given


def main() -> int:
    """Measure, print, judge, keep."""
    given = _arguments()
    known = {} if given.update_baseline else baseline.load()
    keep = not (given.quick or given.update_baseline)
    table, machine, commit = report.Text(), report.machine(), results.commit()
    print(machine)
    measured, failed = [], 0
    for name in given.names or (QUICK if given.quick else QUICK + SLOW):
        module = import_module(f"benchmarks.{name}")
        table.heading(name, (module.__doc__ or "").strip())
        if keep:
            # One that breaks must not leave the figures of another day.
            results.save(name, None, QUICK + SLOW)
        rows = []
        for row in module.rows():
            worse = "" if given.update_baseline else baseline.regression(row, known)
            bad = bool(worse) or not (row.ok or given.quick)
            failed += bad
            table.row(row, "FAIL" if bad else "over" if not row.ok else "PASS" if row.limit is not None else "", worse)
            rows.append(row)
        if keep:
            results.save(name, results.Measured(datetime.now(UTC), machine, commit, tuple(rows)), QUICK + SLOW)
        measured += rows
    if given.update_baseline:
        baseline.save(measured)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
