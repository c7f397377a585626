"""10,000 old runs of 20 events each, made through the instance's API and not executed, are pruned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from benchmarks.measure import BIN, CHECKOUT, Row, run_process, scratch_project
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.operations.embedded_postgres import find_server, server_url

RUNS, PARTITIONS, PROCESSES, LIMIT_SECONDS = 10_000, 500, 2, 60

# Made by several processes in the project: each event is an insert, a notification and a row of its asset.
_MAKE = """
import sys
from coin_hts_pipelines.control.instance import open_database, open_instance, prepare
from coin_hts_pipelines_tests.control.run_maker import RunMaker

prepare()
first, step, runs, partitions = map(int, sys.argv[1:])
with open_instance() as instance:
    maker = RunMaker(instance, open_database())
    for number in range(first, runs, step):
        run_id = maker.begin()
        key = f"KRW-T{number % partitions}|2024"
        maker.plan(run_id, "candles_1d", key)
        maker.noise(run_id, 14)
        maker.record(run_id, "candles_1d", key)
        maker.end(run_id, days=40)
"""


def _set_durable(home: Path, wanted: str) -> None:
    """Whether Postgres waits for the disk: what is made need not survive a power cut, what is measured must."""
    server = find_server(home / "data" / "postgres")
    if server is None:
        sys.exit("the embedded Postgres does not run")
    database = Database(server_url(server.socket_dir, server.port))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"ALTER SYSTEM SET fsync = {wanted}"))
        connection.execute(sa.text("SELECT pg_reload_conf()"))
        connection.execute(sa.text("CHECKPOINT"))
    database.dispose()


def _make(home: Path) -> float:
    """Make the runs; the seconds it took."""
    begun = time.perf_counter()
    argv = [sys.executable, "-c", _MAKE]
    numbers = [[str(number), str(PROCESSES), str(RUNS), str(PARTITIONS)] for number in range(PROCESSES)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    workers = [subprocess.Popen([*argv, *given], cwd=home, env=environment) for given in numbers]
    if sum(worker.wait() != 0 for worker in workers):
        sys.exit("the runs could not be made")
    return time.perf_counter() - begun


def rows() -> Iterator[Row]:
    """Make the runs, then prune what is older than 30 days; the same again by the command, with nothing to do."""
    with scratch_project() as home:
        run_process([BIN / "coin-hts", "setup"], home)
        _set_durable(home, "off")
        seconds = _make(home)
        _set_durable(home, "on")
        pruned = subprocess.run(
            [BIN / "coin-hts", "storage", "prune", "--json"], cwd=home, capture_output=True, text=True, check=True
        )
        report = json.loads(pruned.stdout)
        removed = {kind: one["count"] for kind, one in report["removed"].items()}
        sizes = [sum(table[f"bytes_{when}"] for table in report["tables"]) / 1e6 for when in ("before", "after")]
        note = f"{removed['runs']:,} runs, {removed['events']:,} events; made in {seconds:,.0f} s"
        yield Row("prune 10,000 runs of 20 events, rows to files", report["seconds"], "s", LIMIT_SECONDS, note=note)
        yield Row("runs kept for the latest events of 500 partitions", report["kept_runs"], "", PARTITIONS)
        yield Row("runs that went", removed["runs"], "", RUNS - PARTITIONS, at_least=True)
        yield Row("tables before", sizes[0], "MB")
        yield Row("tables after a plain vacuum", sizes[1], "MB", note="room inside a table is used again")
        yield Row("nothing to prune", run_process([BIN / "coin-hts", "storage", "prune"], home).seconds, "s")
