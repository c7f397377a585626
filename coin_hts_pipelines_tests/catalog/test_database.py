"""The connection, its URL, migrations and constraints, on a real Postgres."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import IntegrityError

from coin_hts_pipelines import InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.catalog import Database, dagster_url
from coin_hts_pipelines.catalog.database import _MIGRATIONS, HEAD_REVISION, driver_url
from coin_hts_pipelines.catalog.models import SCHEMA, Base

DRIVER = "postgresql+psycopg2"


FIRST_TABLES = {"alembic_version", "presets", "results"}
TABLES = {*FIRST_TABLES, "tasks", "dead_letters", "coverage", "symbols", "alerts", "alert_deliveries"}


def tables(database: Database) -> set[str]:
    return set(sa.inspect(database.engine).get_table_names(schema=SCHEMA))


# ---- migrations


def test_up_down_and_up_again(new_database: Callable[[], str]) -> None:
    database = Database(new_database())
    assert database.revision() is None
    database.upgrade()
    assert database.revision() == HEAD_REVISION
    assert tables(database) == TABLES
    assert {"catalog", "dagster"} <= set(sa.inspect(database.engine).get_schema_names())
    database.upgrade()
    database.downgrade("base")
    assert database.revision() is None
    assert tables(database) == {"alembic_version"}
    database.upgrade()
    assert tables(database) == TABLES
    database.dispose()


def test_tasks_come_and_go_with_their_migration(new_database: Callable[[], str]) -> None:
    database = Database(new_database())
    database.upgrade("0002")
    assert tables(database) == FIRST_TABLES
    insert(database, "results", RESULT)
    database.upgrade()
    insert(database, "tasks", QUEUED)
    insert(database, "dead_letters", LETTER)
    database.downgrade("0002")
    assert tables(database) == FIRST_TABLES
    with database.session() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM catalog.results")) == 1
    database.dispose()


def test_the_newest_revision_is_the_one_the_code_names() -> None:
    assert ScriptDirectory(str(_MIGRATIONS)).get_current_head() == HEAD_REVISION


def test_models_and_migrations_are_the_same(database: Database) -> None:
    def ours(name: str | None, kind: str, _: Any) -> bool:
        return kind != "schema" or name == SCHEMA

    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": ours,
                "compare_type": True,
                "compare_server_default": True,
                "version_table_schema": SCHEMA,
            },
        )
        assert compare_metadata(context, Base.metadata) == []
    # Alembic does not compare check constraints.
    inspector = sa.inspect(database.engine)
    for table in Base.metadata.sorted_tables:
        expected = {str(c.name) for c in table.constraints if isinstance(c, sa.CheckConstraint)}
        assert {c["name"] for c in inspector.get_check_constraints(table.name, schema=SCHEMA)} == expected


def test_a_database_of_a_newer_version_is_refused(new_database: Callable[[], str]) -> None:
    database = Database(new_database())
    database.upgrade()
    with database.session() as session:
        session.execute(sa.text(f"UPDATE {SCHEMA}.alembic_version SET version_num = '9999'"))
    with pytest.raises(PermanentError, match=f"revision 9999, this version of the project knows up to {HEAD_REVISION}"):
        database.upgrade()
    assert database.revision() == "9999"
    database.dispose()


def test_two_who_migrate_at_once_both_succeed(new_database: Callable[[], str]) -> None:
    url = new_database()
    script = "import sys; from coin_hts_pipelines.catalog import Database; Database(sys.argv[1]).upgrade()"
    process = subprocess.Popen([sys.executable, "-c", script, url], stderr=subprocess.PIPE, text=True)
    start, errors = threading.Barrier(3), []

    def migrate() -> None:
        one = Database(url)
        start.wait()
        try:
            one.upgrade()
        except Exception as error:
            errors.append(error)
        one.dispose()

    threads = [threading.Thread(target=migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    _, said = process.communicate(timeout=60)
    assert (errors, process.returncode) == ([], 0), said
    database = Database(url)
    assert database.revision() == HEAD_REVISION
    database.dispose()


# ---- constraints

RESULT = {
    "id": "r1",
    "strategy": "s",
    "timeframe": "1D",
    "symbols": '["KRW-BTC"]',
    "status": "completed",
    "start_date": "2025-01-01T00:00Z",
    "end_date": "2025-01-02T00:00Z",
    "candle_source": "sample",
    "request": "{}",
    "figures": "{}",
    "inputs_digest": "i",
    "result_digest": "r",
    "path": "/p",
    "finished_at": "2025-01-03T00:00Z",
    "duration_seconds": 0.1,
}


def insert(database: Database, table: str, row: dict[str, Any]) -> None:
    columns, places = ", ".join(row), ", ".join(f":{name}" for name in row)
    with database.session() as session:
        session.execute(sa.text(f"INSERT INTO catalog.{table} ({columns}) VALUES ({places})"), row)


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"status": "done"}, "ck_results_status"),
        ({"status": None}, "status"),
        ({"start_date": "2025-01-02T00:00:01Z"}, "ck_results_dates"),
        ({"symbols": "[]"}, "ck_results_symbols"),
        ({"figures": None}, "figures"),
    ],
)
def test_a_result_that_cannot_be_is_refused(database: Database, change: dict[str, Any], constraint: str) -> None:
    insert(database, "results", RESULT)
    with pytest.raises(IntegrityError, match=constraint):
        insert(database, "results", {**RESULT, "id": "r2", **change})
    with pytest.raises(IntegrityError, match="pk_results"):
        insert(database, "results", RESULT)


def test_symbols_that_are_no_list_are_refused(database: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError, match=r"ck_results_symbols|array length"):
        insert(database, "results", {**RESULT, "symbols": '{"KRW-BTC": 1}'})


@pytest.mark.parametrize("name", ["", "Upper", "with space", "a|b", "../up", "_first", "ä", "x" * 65])
def test_a_preset_name_that_is_no_key_is_refused(database: Database, name: str) -> None:
    row = {"name": "fine_1", "timeframe": "1D", "request": "{}", "builtin": False}
    insert(database, "presets", row)
    with pytest.raises(IntegrityError, match="ck_presets_name_form"):
        insert(database, "presets", {**row, "name": name})


QUEUED = {
    "id": "t1",
    "request": "{}",
    "state": "queued",
    "progress": 0,
    "backtests": 1,
    "symbols_done": 0,
    "attempts": 0,
    "max_attempts": 3,
    "timeout_seconds": 3600,
    "created_at": "2025-01-01T00:00Z",
    "not_before": "2025-01-01T00:00Z",
}
CLAIMED = {**QUEUED, "attempts": 1, "claimed_at": "2025-01-01T00:01Z", "run_key": "k"}
RUNNING = {
    **CLAIMED,
    "state": "running",
    "started_at": "2025-01-01T00:02Z",
    "heartbeat_at": "2025-01-01T00:02Z",
    "run_id": "r",
}
ENDED = {**RUNNING, "finished_at": "2025-01-01T00:03Z"}
COMPLETED = {**ENDED, "state": "completed", "progress": 1, "path": "/p"}
FAILED = {**ENDED, "state": "failed", "error": "e", "error_class": "E", "error_kind": "permanent"}
CANCELLED = {**ENDED, "state": "cancelled", "cancel_requested_at": "2025-01-01T00:02Z"}
LETTER = {
    "task_id": "t1",
    "request": "{}",
    "attempts": 1,
    "error": "e",
    "error_class": "E",
    "error_kind": "lost",
    "died_at": "2025-01-01T00:00Z",
}


@pytest.mark.parametrize(
    ("row", "change", "constraint"),
    [
        (QUEUED, {"state": "done"}, "ck_tasks_state"),
        (QUEUED, {"progress": -0.1}, "ck_tasks_progress"),
        (QUEUED, {"progress": 1.1}, "ck_tasks_progress"),
        (QUEUED, {"progress": "NaN"}, "ck_tasks_progress"),
        (QUEUED, {"symbols_done": -1}, "ck_tasks_symbols_done"),
        (QUEUED, {"backtests": 0}, "ck_tasks_backtests"),
        (QUEUED, {"attempts": -1}, "ck_tasks_attempts"),
        (QUEUED, {"attempts": 4}, "ck_tasks_attempts"),
        (QUEUED, {"max_attempts": 0}, "ck_tasks_attempts"),
        (QUEUED, {"timeout_seconds": 0}, "ck_tasks_timeout_seconds"),
        (QUEUED, {"finished_at": "2025-01-01"}, "ck_tasks_finished_at"),
        (QUEUED, {"claimed_at": "2025-01-01", "run_key": "k"}, "ck_tasks_claimed"),
        (CLAIMED, {"run_key": None}, "ck_tasks_claimed"),
        *((CLAIMED, {name: "2025-01-01"}, "ck_tasks_queued") for name in ("started_at", "run_id")),
        *((CLAIMED, {name: "2025-01-01"}, "ck_tasks_queued") for name in ("heartbeat_at", "cancel_requested_at")),
        *((RUNNING, {name: None}, "ck_tasks_running") for name in ("claimed_at", "started_at")),
        *((RUNNING, {name: None}, "ck_tasks_running") for name in ("heartbeat_at", "run_id")),
        (RUNNING, {"finished_at": "2025-01-01"}, "ck_tasks_finished_at"),
        (COMPLETED, {"finished_at": None}, "ck_tasks_finished_at"),
        (COMPLETED, {"progress": 0.9}, "ck_tasks_completed"),
        (COMPLETED, {"path": None}, "ck_tasks_completed"),
        (COMPLETED, {"error": "e"}, "ck_tasks_completed"),
        *((FAILED, {name: None}, "ck_tasks_failed") for name in ("error", "error_class", "error_kind")),
        (FAILED, {"error_kind": "odd"}, "ck_tasks_error_kind"),
        (CANCELLED, {"cancel_requested_at": None}, "ck_tasks_cancelled"),
    ],
)
def test_a_task_that_cannot_be_is_refused(
    database: Database, row: dict[str, Any], change: dict[str, Any], constraint: str
) -> None:
    insert(database, "tasks", {**row, "id": "fine"})
    with pytest.raises(IntegrityError, match=constraint):
        insert(database, "tasks", {**row, **change})


def test_a_key_has_one_task_and_many_have_none(database: Database) -> None:
    for name, key in (("t1", "k"), ("t2", None), ("t3", None)):
        insert(database, "tasks", {**QUEUED, "id": name, "idempotency_key": key})
    with pytest.raises(IntegrityError, match="uq_tasks_idempotency_key"):
        insert(database, "tasks", {**QUEUED, "id": "t4", "idempotency_key": "k"})


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"attempts": 0}, "ck_dead_letters_attempts"),
        ({"error_kind": "odd"}, "ck_dead_letters_error_kind"),
        ({"error": None}, "error"),
        ({}, "pk_dead_letters"),
    ],
)
def test_a_dead_letter_that_cannot_be_is_refused(database: Database, change: dict[str, Any], constraint: str) -> None:
    insert(database, "dead_letters", LETTER)
    row = {**LETTER, "task_id": "t2", **change} if change else LETTER
    with pytest.raises(IntegrityError, match=constraint):
        insert(database, "dead_letters", row)


def test_symbols_are_searched_by_their_index(database: Database) -> None:
    insert(database, "results", RESULT)
    with database.engine.connect() as connection:
        connection.execute(sa.text("SET enable_seqscan = off"))
        plan = connection.scalars(
            sa.text("EXPLAIN SELECT id FROM catalog.results WHERE symbols @> CAST('[\"KRW-BTC\"]' AS jsonb)")
        ).all()
    assert any("ix_results_symbols" in line for line in plan), plan


# ---- connections


def test_pool_settings_arrive(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=7, max_overflow=9, pool_recycle=11)
    pool = database.engine.pool
    assert isinstance(pool, sa.pool.QueuePool)
    assert (pool.size(), pool._max_overflow, pool._recycle) == (7, 9, 11)
    default = Database(postgres_url).engine.pool
    assert isinstance(default, sa.pool.QueuePool)
    assert (default.size(), default._max_overflow, default._recycle) == (20, 40, 3600)


def test_a_dropped_connection_is_renewed(database: Database) -> None:
    with database.session() as session:
        mine = session.scalar(sa.text("SELECT pg_backend_pid()"))
    killer = Database(database.url.render_as_string(hide_password=False))
    with killer.session() as session:
        session.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": mine})
    killer.dispose()
    with database.session() as session:
        assert session.scalar(sa.text("SELECT 1")) == 1


def test_a_connection_that_drops_in_the_middle_is_transient(database: Database) -> None:
    def cut() -> None:
        with database.session() as session:
            session.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(TransientError, match="Postgres at"):
        cut()


def test_a_transaction_lands_whole_or_not_at_all(database: Database) -> None:
    def half() -> None:
        with database.session() as session:
            session.execute(sa.text("INSERT INTO catalog.presets VALUES ('half', '1D', '{}', NULL, NULL, false)"))
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        half()
    with database.session() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM catalog.presets")) == 0


@pytest.mark.parametrize("call", ["revision", "version", "upgrade"])
def test_a_server_that_is_not_there_is_transient_and_tells_no_password(call: str) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        database = Database(f"postgresql://user:hush@127.0.0.1:{port}/catalog")
        with pytest.raises(TransientError) as raised:
            getattr(database, call)()
    assert f"Postgres at {DRIVER}://user:***@127.0.0.1:{port}/catalog cannot be reached" in str(raised.value)
    assert "hush" not in str(raised.value) + database.label


def test_a_database_that_is_not_there_is_named(postgres_url: str) -> None:
    absent = driver_url(postgres_url).set(database="absent").render_as_string(hide_password=False)
    with pytest.raises(TransientError, match='database "absent" does not exist'):
        Database(absent).revision()


# ---- URLs


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("postgresql://u:p@h:5/d", f"{DRIVER}://u:p@h:5/d"),
        ("postgres://u:p@h/d", f"{DRIVER}://u:p@h/d"),
        ("postgresql+psycopg2://u@h/d", f"{DRIVER}://u@h/d"),
        ("postgresql+psycopg://u@h/d", f"{DRIVER}://u@h/d"),
        ("postgresql://u:p%40ss%2F@h/d", f"{DRIVER}://u:p%40ss%2F@h/d"),
        ("postgresql:///d?host=%2Ftmp%2Fx", f"{DRIVER}:///d?host=%2Ftmp%2Fx"),
    ],
)
def test_every_spelling_takes_the_one_driver(text: str, url: str) -> None:
    assert driver_url(text).render_as_string(hide_password=False) == url


@pytest.mark.parametrize("text", ["sqlite:///x.db", "mysql://u:hush@h/d", "", "hush", "postgresql://u:hush@h:port/d"])
def test_what_is_no_postgres_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="COIN_HTS_DATABASE_URL") as raised:
        Database(text)
    assert "hush" not in str(raised.value)


def test_dagster_gets_the_same_database_in_its_own_schema(new_database: Callable[[], str]) -> None:
    assert dagster_url("postgresql://u:p@h/d") == f"{DRIVER}://u:p@h/d?options=-csearch_path%3Ddagster"
    url = new_database()
    Database(url).upgrade()
    engine = sa.create_engine(dagster_url(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT current_schema()")) == "dagster"


def test_the_migrations_are_part_of_the_package() -> None:
    assert (Path(_MIGRATIONS) / "env.py").is_file()
    assert (Path(_MIGRATIONS) / "script.py.mako").is_file()
