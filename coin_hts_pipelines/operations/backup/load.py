"""Executes a dump in one transaction that is committed only when the caller is done with its part."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import sqlalchemy as sa

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.database import DAGSTER_SCHEMA
from coin_hts_pipelines.catalog.models import SCHEMA, PresetRow
from coin_hts_pipelines.errors import PermanentError
from coin_hts_pipelines.operations.backup import postgres_tools
from coin_hts_pipelines.operations.backup.dump import SCHEMAS, count_rows, quoted
from coin_hts_pipelines.operations.backup.manifest import Manifest
from coin_hts_pipelines.operations.backup.parallel import Asked, stop_if

_BLOCK = 1 << 20
_OPTIONS = ("--no-owner", "--no-privileges", "--file=-")
_READY, _DONE = "coin-hts: executed", "coin-hts: committed"
_PATHS = (f"{SCHEMA}.results", f"{SCHEMA}.tasks")
# Of these a row is work worth keeping; whatever else a database holds, `coin-hts setup` or an idle daemon wrote.
_WORK = {
    *(f"{SCHEMA}.{name}" for name in ("results", "tasks", "dead_letters", "coverage", "symbols")),
    *(f"{DAGSTER_SCHEMA}.{name}" for name in ("runs", "event_logs", "bulk_actions")),
}


@dataclass(frozen=True)
class Found:
    """A database before a restore: `rows` says what is in it, empty for nothing worth keeping."""

    rows: str
    major: int


@dataclass(frozen=True)
class Load:
    """What is restored into a server of that major version, the mark it leaves, and the new DATA_ROOT."""

    manifest: Manifest
    major: int
    mark: str
    data_root: Path


def look_at(database: Database) -> Found:
    """Look what a database holds."""
    with database.session() as session:
        counts = count_rows(lambda query: session.execute(sa.text(query)).all())
        own = 0
        if f"{SCHEMA}.presets" in counts:
            own = session.scalar(sa.select(sa.func.count()).where(~PresetRow.builtin)) or 0
        full = {name: count for name, count in counts.items() if count and name in _WORK}
        if own:
            full[f"{SCHEMA}.presets"] = own
        number = session.scalar(sa.text("SHOW server_version_num"))
    rows = ", ".join(f"{count:,} rows in {name}" for name, count in list(full.items())[:3])
    return Found(rows, int(str(number)) // 10_000)


def count_others(database: Database) -> int:
    """Count the connections to a database beside our own."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    with database.session() as session:
        return int(session.scalar(sa.text(query)) or 0)


def committed_mark(database: Database) -> str | None:
    """Mark that the last restore into a database left."""
    query = sa.text("SELECT obj_description(to_regnamespace(:name), 'pg_namespace')")
    with database.session() as session:
        mark: str | None = session.scalar(query, {"name": SCHEMA})
    return mark


@contextmanager
def load_database(database: Database, dump: Path, load: Load, cancelled: Asked) -> Iterator[None]:
    """Execute a dump in place of our schemas, then the block, then commit; nothing has happened if the block raises.

    Raises
    ------
    TransientError
        If Postgres refuses or goes away; the old schemas are as they were.
    PermanentError
        If no `pg_restore` fits, or the server is older than that of the dump.
    """
    if load.major < int(load.manifest.dump.server.partition(".")[0]):
        raise PermanentError(
            f"backup {load.manifest.id} is of Postgres {load.manifest.dump.server}, the server is {load.major}; "
            "restore into one that is not older"
        )
    tools = postgres_tools.find_tools(max(load.major, load.manifest.dump.pg_major))
    dsn, environment = postgres_tools.connection(database.url)
    argv = [tools.path("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null"]
    with tempfile.TemporaryFile("w+") as said:
        psql = subprocess.Popen(
            [*argv, f"--dbname={dsn}", "--file=-"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        assert psql.stdin is not None  # noqa: S101 - as asked for above
        assert psql.stdout is not None  # noqa: S101
        try:
            psql.stdin.write(_before().encode())
            _pump([tools.path("pg_restore"), *_OPTIONS, str(dump)], psql.stdin, cancelled)
            _say(psql.stdin, psql.stdout, _after(load), _READY)
            yield
            _say(psql.stdin, psql.stdout, "COMMIT;\n", _DONE)
        except (BrokenPipeError, EOFError):
            psql.kill()
            psql.wait()
            said.seek(0)
            raise postgres_tools.failure(tools.path("psql"), database.label, said.read()) from None
        finally:
            # Without COMMIT the end of the connection takes everything back, also when this process is killed.
            psql.kill()
            psql.wait()
            psql.stdout.close()
            with suppress(BrokenPipeError):
                psql.stdin.close()


def _before() -> str:
    schemas = ", ".join(SCHEMAS)
    options = "SET client_min_messages = warning;\nSET LOCAL lock_timeout = '10s';"
    return f"BEGIN;\n{options}\nDROP SCHEMA IF EXISTS {schemas} CASCADE;\n"


def _after(load: Load) -> str:
    """Compare every table with the counts of the manifest, move the paths of directories, leave the mark."""
    lines = []
    for name, count in load.manifest.tables.items():
        told = _literal(f"{name} has not the {count} rows that the backup says")
        lines.append(
            f"DO $do$ BEGIN IF (SELECT count(*) FROM {quoted(name)}) <> {count} "  # noqa: S608
            f"THEN RAISE EXCEPTION USING MESSAGE = {told}; END IF; END $do$;"
        )
    old, new = load.manifest.data_root, str(load.data_root)
    lines += [
        f"UPDATE {name} SET path = {_literal(new)} || substr(path, {len(old) + 1}) "  # noqa: S608
        f"WHERE starts_with(path, {_literal(old + '/')});"
        for name in _PATHS
        if old != new and name in load.manifest.tables
    ]
    lines.append(f"COMMENT ON SCHEMA {SCHEMA} IS {_literal(load.mark)};")
    return "\n".join(lines) + "\n"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _pump(argv: list[str], sink: IO[bytes], cancelled: Asked) -> None:
    """Write what `pg_restore` makes of the dump; if it dies in the middle, that is an error and not the end."""
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
        assert child.stdout is not None  # noqa: S101
        try:
            while block := child.stdout.read(_BLOCK):
                stop_if(cancelled)
                sink.write(block)
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        if code:
            said.seek(0)
            raise postgres_tools.failure(argv[0], argv[-1], said.read())


def _say(sink: IO[bytes], source: IO[bytes], text: str, answer: str) -> None:
    """Send commands and wait until all of them are done."""
    sink.write(f"{text}\\echo {answer}\n".encode())
    sink.flush()
    if source.readline().decode().strip() != answer:
        raise EOFError
