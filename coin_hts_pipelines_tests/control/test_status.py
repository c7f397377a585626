"""What is read of Dagster's tables and of the catalog's, held to Dagster's own storage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.database import dagster_url
from coin_hts_pipelines.control import run_owners, status
from coin_hts_pipelines.errors import InvalidRequest, TransientError
from coin_hts_pipelines.market import Timeframe
from coin_hts_pipelines.operations.alert_outbox import enter_alert
from coin_hts_pipelines.operations.alerts import Alert
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.tasks import TaskQueue
from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.defs.helpers import home
from coin_hts_pipelines_tests.lake.helpers import candles
from coin_hts_pipelines_tests.tasks.task_maker import request

__all__ = ["home", "new_database"]


@pytest.fixture(scope="module")
def database(new_database: Callable[[], str]) -> Iterator[Database]:
    made = Database(new_database(), pool_size=2)
    made.upgrade()
    yield made
    made.dispose()


@pytest.fixture
def instance(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """A real instance on that database, as dagster.yaml has it, without runs."""
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", dagster_url(database.url.render_as_string(hide_password=False)))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("COIN_HTS_DAGSTER_STORAGE", str(tmp_path))
    with dg.DagsterInstance.from_config(str(CHECKOUT)) as made:
        yield made
        with database.session() as session:
            session.execute(sa.text("TRUNCATE dagster.runs, dagster.event_logs, dagster.daemon_heartbeats CASCADE"))
            session.execute(sa.text("TRUNCATE catalog.tasks, catalog.dead_letters, catalog.alerts CASCADE"))


@dg.job
def nothing() -> None:
    """Does nothing."""


@dg.op
def broken() -> None:
    try:
        raise ValueError("the store is\nfull of it")
    except ValueError as error:
        raise RuntimeError("no result") from error


@dg.job
def breaks() -> None:
    """Fails."""
    broken()


def test_the_tag_is_that_of_the_owners() -> None:
    assert status.OWNER_TAG == run_owners.OWNER_TAG


def test_of_a_database_without_tables(new_database: Callable[[], str]) -> None:
    empty = Database(new_database(), pool_size=1)
    told = status.read_postgres(empty)
    empty.dispose()
    assert told == {
        "added": {},
        "daemon_heartbeat_seconds": None,
        "runs": {"success": 0, "failure": 0, "canceled": 0, "queued": 0, "running": 0},
        "failed_runs": [],
        "tasks": dict.fromkeys(("queued", "running", "completed", "failed", "cancelled"), 0),
        "dead_letters": {"open": 0, "newest": []},
        "alerts": None,
    }


def test_open_runs_as_dagster_has_them(instance: dg.DagsterInstance, database: Database) -> None:
    made = {}
    with database.session() as session:
        for one in ("QUEUED", "STARTING", "STARTED", "CANCELING", "SUCCESS"):
            made[one] = instance.create_run_for_job(nothing, tags={"coin_hts/process": "h/1/2/x"}).run_id
            query = """UPDATE dagster.runs SET status = :status, start_time = CASE WHEN :status = 'STARTED'
                       THEN extract(epoch FROM now()) - 90 END WHERE run_id = :id"""
            session.execute(sa.text(query), {"status": one, "id": made[one]})
        runs = {run.status: run for run in status.open_runs(session)}
    del made["SUCCESS"]
    assert {one: run.run_id for one, run in runs.items()} == made
    assert runs["STARTED"].started_ago == pytest.approx(90, abs=30)
    assert runs["QUEUED"].started_ago is None
    assert runs["QUEUED"].created_ago == pytest.approx(0, abs=60)
    assert runs["QUEUED"].owner == "h/1/2/x"


def test_ages_do_not_depend_on_the_zone_of_the_server(instance: dg.DagsterInstance, database: Database) -> None:
    with database.session() as session:
        session.execute(sa.text("SET LOCAL timezone = 'Asia/Seoul'"))
        session.execute(sa.text("INSERT INTO dagster.runs (run_id, status, run_body) VALUES ('r', 'QUEUED', '{}')"))
        (run,) = status.open_runs(session)
        assert run.created_ago == pytest.approx(0, abs=60)
        session.rollback()


@pytest.mark.parametrize("age", [0, 700])
def test_the_heartbeat(instance: dg.DagsterInstance, database: Database, age: float) -> None:
    for name, error in (("SENSOR", None), ("SCHEDULER", "it broke\nat line 3")):
        errors = [SerializableErrorInfo(error, [], None)] if error else []
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - age, name, "id", errors))
    with database.session() as session:
        beat = status.heartbeat(session)
    assert beat.age_seconds == pytest.approx(age, abs=30)
    assert beat.error == "it broke"


def test_runs_of_a_day_and_why_they_failed(home: Path, instance: dg.DagsterInstance, database: Database) -> None:
    assert nothing.execute_in_process(instance=instance).success
    failed = breaks.execute_in_process(instance=instance, raise_on_error=False)
    old = nothing.execute_in_process(instance=instance)
    canceled = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
    instance.report_run_canceled(canceled)
    crashed = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(crashed, "the process of this run ended without finishing it")
    with database.session() as session:
        session.execute(
            sa.text("UPDATE dagster.runs SET end_time = end_time - 90000 WHERE run_id = :id"), {"id": old.run_id}
        )
        assert status.runs_of_a_day(session) == {"success": 1, "failure": 2, "canceled": 1}
        found = {run["run_id"]: run for run in status.failed_runs(session)}
    assert {run_id: (run["job"], run["reason"]) for run_id, run in found.items()} == {
        failed.run_id: ("breaks", "ValueError: the store is"),
        crashed.run_id: ("nothing", "the process of this run ended without finishing it"),
    }
    assert found[failed.run_id]["link"] == f"http://127.0.0.1:3000/runs/{failed.run_id}"
    assert datetime.now(UTC) - found[failed.run_id]["ended_at"] < timedelta(minutes=10)


def test_candles_added(instance: dg.DagsterInstance, database: Database) -> None:
    for asset, added in (("candles_1d", 40), ("candles_1d", 2), ("candles_1h", 7), ("indicators_1d", 1000)):
        metadata = {"dagster/row_count": 999, "added_rows": added, "changed_rows": 5}
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=metadata))
    instance.report_runless_asset_event(dg.AssetMaterialization("candles_1h", metadata={"note": "nothing"}))
    with database.session() as session:
        assert status.candles_added(session) == {"1D": 42, "1H": 7}
        session.execute(sa.text("UPDATE dagster.event_logs SET timestamp = timestamp - interval '25 hours'"))
        assert status.candles_added(session) == {}
        session.rollback()


def test_tasks_and_dead_letters(home: Path, instance: dg.DagsterInstance, database: Database) -> None:
    queue = TaskQueue(database)
    ids = [queue.submit(request()).id for _ in range(3)]
    queue.cancel(ids[0], "no")
    queue.cancel(ids[1], "no")
    with database.session() as session:
        session.execute(
            sa.text("UPDATE catalog.tasks SET finished_at = now() - interval '25 hours' WHERE id = :id"),
            {"id": ids[1]},
        )
        assert status.task_states(session) == {
            "queued": 1, "running": 0, "completed": 0, "failed": 0, "cancelled": 2,
        }  # fmt: skip
        assert status.tasks_of_a_day(session)["cancelled"] == 1
        session.execute(
            sa.text(
                "INSERT INTO catalog.dead_letters (task_id, request, attempts, error, error_class, error_kind, died_at)"
                " VALUES ('t1', '{}', 1, 'no candles', 'NoCandles', 'permanent', now())"
            )
        )
        assert status.dead_letters(session) == 1
        (letter,) = status.newest_dead_letters(session)
    assert (letter["task_id"], letter["error"]) == ("t1", "no candles")
    assert letter["link"].startswith("http://127.0.0.1:3000/assets/backtest_task?")


def test_alerts_that_last(instance: dg.DagsterInstance, database: Database) -> None:
    with database.session() as session:
        enter_alert(session, Alert("disk_full", "the disk is full", "of data", None, "warning"), "disk")
        enter_alert(session, Alert("stale_data", "old", "candles", None, "warning"), "stale")
        session.execute(sa.text("UPDATE catalog.alerts SET lasts = false WHERE key LIKE 'stale%'"))
    with database.session() as session:
        found = status.newest_alerts(session)
    assert found is not None
    assert found["open"] == 1
    assert [(one["kind"], one["title"]) for one in found["newest"]] == [("disk_full", "the disk is full")]


def test_what_is_asked_of_an_exchange(instance: dg.DagsterInstance, database: Database) -> None:
    live = Settings(source="exchange:upbit", timeframes="1D,1H")
    with database.session() as session:
        session.execute(
            sa.text("""
            INSERT INTO catalog.symbols (symbol, exchange, name, enabled, delisted_at) VALUES
            ('KRW-BTC', 'upbit', '', true, NULL), ('KRW-ETH', 'upbit', '', true, NULL),
            ('KRW-OFF', 'upbit', '', false, NULL), ('KRW-OLD', 'upbit', '', true, now()),
            ('KRW-BIN', 'binance', '', true, NULL)""")
        )
        session.execute(
            sa.text("""
            INSERT INTO catalog.coverage (source, symbol, timeframe, covered) VALUES
            ('exchange:upbit', 'KRW-BTC', '1H', '{[2026-01-01,2026-01-02),[2026-02-01,2026-02-02)}'),
            ('exchange:upbit', 'KRW-BTC', '1M', '{[2026-01-01,2026-01-02)}'),
            ('files', 'KRW-ETH', '1D', '{[2026-01-01,2026-01-02)}')""")
        )
        asked = status.asked_until(session, live)
        assert status.asked_until(session, Settings(source="files")) is None
        session.rollback()
    assert asked == {
        ("KRW-BTC", "1D"): None,
        ("KRW-BTC", "1H"): datetime(2026, 2, 2, tzinfo=UTC),
        ("KRW-ETH", "1D"): None,
        ("KRW-ETH", "1H"): None,
    }


# ---- connections


def test_nobody_who_looks_starts_the_server(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="is not running; `coin-hts db start` starts it"):
        status.connect(Settings(home=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_question_has_two_seconds(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    looking = status.connect(Settings(database_url=url))
    with pytest.raises(TransientError, match="statement timeout"), looking.session() as session:
        session.execute(sa.text("SELECT pg_sleep(60)"))
    looking.dispose()


def test_a_url_that_is_none() -> None:
    with pytest.raises(InvalidRequest, match="COIN_HTS_DATABASE_URL names mysql"):
        status.connect(Settings(database_url="mysql://u:hush@127.0.0.1/x"))


# ---- files and the whole


def ranking(root: Path, timeframe: str, preset: str, rows: list[tuple[str, float | None]]) -> None:
    path = root / "rankings" / timeframe / f"{preset}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "rank": list(range(1, len(rows) + 1)),
        "symbol": [symbol for symbol, _ in rows],
        "sharpe": pa.array([sharpe for _, sharpe in rows], pa.float64()),
        "synthetic": [True] * len(rows),
    }
    pq.write_table(pa.table(columns), path)


def test_the_best_of_all_presets(tmp_path: Path) -> None:
    ranking(tmp_path, "1D", "a", [("KRW-BTC", 1.0), ("KRW-ETH", 0.5)])
    ranking(tmp_path, "1D", "b", [("KRW-XRP", 1.5)])
    ranking(tmp_path, "1D", "c", [("KRW-ADA", float("nan"))])
    ranking(tmp_path, "1H", "d", [("KRW-ADA", -2.0)])
    ranking(tmp_path, "5M", "e", [("KRW-ADA", None)])
    ranking(tmp_path, "1M", "f", [])
    (tmp_path / "rankings" / "1D" / "broken.parquet").write_text("no")
    best = status.best_ranked(tmp_path)
    assert {name: (one["symbol"], one["preset"], one["sharpe"]) for name, one in best.items()} == {
        "1D": ("KRW-XRP", "b", 1.5),
        "1H": ("KRW-ADA", "d", -2.0),
    }


def test_the_summary_without_postgres(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url="postgresql://u:hush@127.0.0.1:1/x")
    from coin_hts_pipelines.lake import CandleStore

    CandleStore(settings.root).merge("KRW-BTC", Timeframe.D1, candles(3), source="files")
    found = status.summarize(settings)
    assert "cannot be reached" in found["postgres"]
    assert "hush" not in str(found)
    assert found["candles"]["1D"]["added"] is None, "not known, which is not none"
    assert found["candles"]["1D"]["newest"] == datetime(2024, 1, 3, tzinfo=UTC)
    assert "runs" not in found
    assert 0 < found["disk"]["used_percent"] < 100
    assert found["backups"]["newest"] is None


def test_the_summary_tells_no_secret_of_others(home: Path, instance: dg.DagsterInstance, database: Database) -> None:
    run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(run, "no connection to postgresql://me:planted@db/x?password=planted")
    settings = Settings(home=home, database_url=database.url.render_as_string(hide_password=False))
    found = status.summarize(settings)
    assert found["failed_runs"][0]["reason"] == "no connection to postgresql://me:***@db/x?password=***"


def test_the_summary_with_postgres(home: Path, instance: dg.DagsterInstance, database: Database) -> None:
    assert nothing.execute_in_process(instance=instance).success
    instance.report_runless_asset_event(dg.AssetMaterialization("candles_5m", metadata={"added_rows": 4}))
    settings = Settings(home=home, database_url=database.url.render_as_string(hide_password=False))
    found = status.summarize(settings)
    assert found["postgres"] is None
    assert found["runs"]["success"] == 1
    assert found["candles"] == {"5M": {"newest": None, "added": 4}}
