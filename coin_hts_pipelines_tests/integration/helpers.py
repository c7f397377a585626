"""What the integration tests look at from outside: the instance's tables, the folder of data, the process list."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg2

from coin_hts_pipelines.operations.embedded_postgres import find_server
from coin_hts_pipelines.results.manifest import Manifest
from coin_hts_pipelines_tests.conftest import Project

LAYERS = ("candles", "indicators", "backtests", "rankings", "exports")
STRATEGIES = ("volume_long_candle", "volume_zone_breakout")
_NOT_DATA = ("postgres", "dagster")

FileState = tuple[int, int]


def query(project: Project, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """Rows of a query on the project's embedded Postgres."""
    server = find_server(project.data / "postgres")
    assert server is not None, "the project's Postgres is not running"
    connection = psycopg2.connect(host=str(server.socket_dir), port=server.port, user="postgres", dbname="postgres")
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall()
    finally:
        connection.close()


def run_statuses(project: Project) -> dict[str, str]:
    """Status of every run of the instance, oldest first; none before Dagster has made its tables."""
    if query(project, "SELECT to_regclass('dagster.runs')")[0][0] is None:
        return {}
    return dict(query(project, "SELECT run_id, status FROM dagster.runs ORDER BY id"))


def last_event(project: Project) -> int:
    """Id of the newest event of the instance."""
    return int(query(project, "SELECT coalesce(max(id), 0) FROM dagster.event_logs")[0][0])


def materialized(project: Project, asset: str, after: int = 0) -> set[str]:
    """Partitions of an asset that were materialized after an event."""
    rows = query(
        project,
        "SELECT partition FROM dagster.event_logs "
        "WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = %s AND id > %s",
        json.dumps([asset]),
        after,
    )
    return {partition for (partition,) in rows}


def claimed_slots(project: Project) -> list[tuple[Any, ...]]:
    """Pool slots that a run holds."""
    return query(project, "SELECT concurrency_key, run_id FROM dagster.concurrency_slots WHERE run_id IS NOT NULL")


def files_under(folder: Path, pattern: str = "**/*") -> dict[str, FileState]:
    """Inode and time of writing of the data files under a folder, without locks and the servers' own files."""
    found = {}
    for path in folder.glob(pattern):
        relative = path.relative_to(folder)
        if path.is_file() and relative.parts[0] not in _NOT_DATA and path.suffix != ".lock":
            state = path.stat()
            found[str(relative)] = (state.st_ino, state.st_mtime_ns)
    return found


def candle_files(project: Project, symbol: str = "*-*") -> dict[str, FileState]:
    """Year files of the candle store."""
    return files_under(project.data, f"{symbol}/*/*.parquet")


def leftovers(project: Project) -> list[Path]:
    """Temporary files and folders somebody left."""
    return [path for path in project.home.rglob("*.tmp") if "postgres" not in path.relative_to(project.home).parts]


def current_result(project: Project, timeframe: str, preset: str, symbol: str) -> Path:
    """Directory of a current result."""
    home = project.data / "results" / timeframe / preset / symbol
    return home / (home / "CURRENT").read_text().strip()


def current_ids(project: Project) -> dict[str, str]:
    """Id of every current result."""
    root = project.data / "results"
    return {str(path.parent.relative_to(root)): path.read_text() for path in root.glob("*/*/*/CURRENT")}


def assert_exported(project: Project, timeframe: str, preset: str, symbol: str) -> None:
    """The directory store holds the current result, byte for byte, and the manifest names just these files."""
    folder = current_result(project, timeframe, preset, symbol)
    exported = project.data / "exports" / "backtests" / timeframe / preset / symbol
    manifest = Manifest.load(folder)
    manifest.check_files(folder)
    assert (manifest.preset, manifest.symbols, manifest.timeframe) == (preset, (symbol,), timeframe)
    names = {"manifest.json", *(entry.name for entry in manifest.files)}
    assert names == {"manifest.json", "signals.parquet", "trades.parquet", "equity.parquet", "summary.parquet"}
    for where in (folder, exported):
        assert {path.name for path in where.iterdir() if not path.name.startswith(".")} == names
    for name in names:
        assert (exported / name).read_bytes() == (folder / name).read_bytes()


def document(text: str) -> Any:
    """Parse JSON strictly: NaN and Infinity are not JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def write_year(folder: Path, symbol: str, timeframe: str, year: int, frame: pd.DataFrame) -> Path:
    """Write a frame where the store's layout has it, as a stranger would."""
    path = folder / symbol / timeframe / f"{year}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path)
    return path


def printed_table(text: str, title: str) -> tuple[list[list[str]], list[list[str]]]:
    """Cells of the header lines and of the rows of a printed table; two spaces stand between cells."""
    lines = [line.strip() for line in text.splitlines()]
    below = lines[lines.index(title) + 1 :]
    rule = next(number for number, line in enumerate(below) if line and set(line) <= set("─━"))
    end = next((number for number in range(rule + 1, len(below)) if not below[number]), len(below))
    cells = [re.split(r"\s{2,}", line) for line in below]
    return [row for row in cells[:rule] if row != [""]], cells[rule + 1 : end]


def table_rows(text: str, title: str) -> list[list[str]]:
    """Cells of the rows of a printed table."""
    return printed_table(text, title)[1]


def wait_until(condition: Callable[[], Any], seconds: float, what: str, pause: float = 0.02) -> Any:
    """Poll until a condition holds and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(pause)
    return found


def processes_in(folder: Path) -> dict[int, str]:
    """Live processes that work in a folder or name it in their command, Postgres apart."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            here = (entry / "cwd").resolve() == folder
            server = (entry / "comm").read_text().strip() == "postgres"
        except OSError:
            continue
        if command and not server and (here or str(folder) in command):
            found[int(entry.name)] = command
    return found


def same(first: float | None, second: float | None) -> bool:
    """Equal to what a table shows, or both undefined."""
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, abs_tol=5e-4)
