"""The dump of the database, with what else is true in the same snapshot: row counts, and the directories rows name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.database import DAGSTER_SCHEMA
from coin_hts_pipelines.catalog.models import SCHEMA
from coin_hts_pipelines.errors import PermanentError
from coin_hts_pipelines.operations.backup import postgres_tools
from coin_hts_pipelines.operations.backup.parallel import Asked

SCHEMAS = (SCHEMA, DAGSTER_SCHEMA)


@dataclass(frozen=True)
class Snapshot:
    """What was seen while the dump was made; `named` are the directories of results and tasks that rows name."""

    tables: dict[str, int]
    named: frozenset[Path]
    revision: str | None
    server: str
    pg_major: int


def quoted(name: str) -> str:
    """Quote `schema.table` for SQL."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split(".", 1))


def count_rows(execute: Callable[[str], Sequence[Sequence[Any]]]) -> dict[str, int]:
    """Rows of each table of our schemas."""
    schemas = ", ".join(f"'{name}'" for name in SCHEMAS)
    query = f"SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ({schemas}) ORDER BY 1, 2"  # noqa: S608
    names = [f"{row[0]}.{row[1]}" for row in execute(query)]
    return {name: int(execute(f"SELECT count(*) FROM {quoted(name)}")[0][0]) for name in names}  # noqa: S608


def dump_database(database: Database, path: Path, cancelled: Asked) -> Snapshot:
    """Dump both schemas to a file and count in the snapshot of the dump.

    Raises
    ------
    TransientError
        If Postgres cannot be reached, or goes away.
    PermanentError
        If no `pg_dump` fits the server, or there are no tables.
    """
    with database.session() as session:
        bound = session.connection(execution_options={"isolation_level": "REPEATABLE READ"})

        def execute(query: str) -> Sequence[Sequence[Any]]:
            return bound.execute(sa.text(query)).all()

        exported = execute("SELECT pg_export_snapshot()")[0][0]
        number = int(str(execute("SHOW server_version_num")[0][0]))
        tools = postgres_tools.find_tools(number // 10_000)
        tables = count_rows(execute)
        if not tables:
            raise PermanentError(
                f"{database.label} has none of our tables; `coin-hts setup` makes them, and `coin-hts backup restore` "
                "brings them back"
            )
        queries = {
            f"{SCHEMA}.results": f"SELECT path FROM {SCHEMA}.results",  # noqa: S608
            f"{SCHEMA}.tasks": f"SELECT path FROM {SCHEMA}.tasks WHERE path IS NOT NULL AND cleaned_at IS NULL",  # noqa: S608
        }
        named = {Path(str(row[0])) for table, query in queries.items() if table in tables for row in execute(query)}
        revisions = f"{SCHEMA}.alembic_version"
        revision = execute(f"SELECT version_num FROM {revisions}") if revisions in tables else []  # noqa: S608
        dsn, environment = postgres_tools.connection(database.url)
        options = ["--format=custom", "--compress=1", "--no-owner", "--no-privileges", f"--snapshot={exported}"]
        schemas = [f"--schema={name}" for name in SCHEMAS]
        argv = [tools.path("pg_dump"), *options, *schemas, f"--file={path}", f"--dbname={dsn}"]
        postgres_tools.run(argv, environment, database.label, cancelled)
        return Snapshot(
            tables=tables,
            named=frozenset(named),
            revision=str(revision[0][0]) if revision else None,
            server=str(execute("SHOW server_version")[0][0]),
            pg_major=tools.major,
        )
