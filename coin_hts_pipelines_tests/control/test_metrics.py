"""Figures as Prometheus gets them, and the dashboard made of them."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.control import metrics
from coin_hts_pipelines.control.metrics import InstanceCollector
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.operations.backup.manifest import Dump, Manifest
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.tasks import TaskQueue
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.lake.helpers import candles
from coin_hts_pipelines_tests.tasks.task_maker import request

__all__ = ["_migrated", "database", "new_database"]

DASHBOARD = CHECKOUT / "docs" / "grafana" / "coin_hts.json"
Figures = dict[tuple[str, str], float]


class Clock:
    """A monotonic clock that is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(tmp_path: Path, database: Database) -> Settings:
    return Settings(home=tmp_path, database_url=database.url.render_as_string(hide_password=False))


@contextmanager
def served(settings: Settings, clock: Clock | None = None) -> Iterator[Callable[[], Figures]]:
    """Serve on loopback; what is yielded scrapes, and gives value by name and labels' values."""
    registry = CollectorRegistry()
    registry.register(InstanceCollector(settings, clock_seconds=clock or Clock()))
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)

    def scrape() -> Figures:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=60) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        assert all(family.documentation for family in families)
        return {
            (sample.name, ",".join(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }

    try:
        yield scrape
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def back_up(settings: Settings, passed: bool) -> None:
    at = datetime.now(UTC) - timedelta(hours=3)
    dump = Dump(size=3, sha256="ab" * 32, pg_major=18, server="18.4")
    name = f"{at:%Y%m%dT%H%M%S.%fZ}-host"
    manifest = Manifest(
        id=name, created=at, finished=at, host="host", versions={}, catalog_revision=None, data_root="/",
        dump=dump, tables={}, files=(), new_bytes=3,
    )  # fmt: skip
    place = settings.backups / dump.key
    place.parent.mkdir(parents=True)
    place.write_bytes(b"abc")
    (settings.backups / f"{name}.json").write_bytes(manifest.encode())
    (settings.backups / "drills").mkdir()
    drill = {"started_at": at.isoformat(), "finished_at": at.isoformat(), "passed": passed}
    (settings.backups / "drills" / "1.json").write_text(json.dumps(drill))


def test_a_scrape(settings: Settings, database: Database) -> None:
    for symbol, bars in (("KRW-BTC", 800), ("KRW-ETH", 3)):
        CandleStore(settings.root).merge(symbol, "1D", candles(bars), source="files")
    queue = TaskQueue(database)
    queue.submit(request())
    queue.cancel(queue.submit(request()).id, "no")
    back_up(settings, passed=False)
    with served(settings) as scrape:
        found = scrape()
    assert found["coin_hts_postgres_up", ""] == 1
    assert found["coin_hts_daemon_up", ""] == 0
    assert ("coin_hts_daemon_heartbeat_age_seconds", "") not in found, "never started"
    assert found["coin_hts_tasks", "queued"] == 1
    assert found["coin_hts_tasks", "cancelled"] == 1
    assert found["coin_hts_tasks", "failed"] == 0
    assert found["coin_hts_runs_last_day", "failure"] == 0
    assert found["coin_hts_runs_open", "queued"] == 0
    assert found["coin_hts_dead_letters", ""] == 0
    assert found["coin_hts_alerts_open", ""] == 0
    assert found["coin_hts_candles_rows", "1D"] == 803
    age = (datetime.now(UTC) - datetime(2026, 3, 10, tzinfo=UTC)).total_seconds()
    assert found["coin_hts_candles_newest_age_seconds", "1D"] == pytest.approx(age, abs=600)
    assert found["coin_hts_candles_unreadable_files", ""] == 0
    assert found["coin_hts_disk_used_bytes", "data"] > 1e6
    assert found["coin_hts_disk_free_bytes", "backups"] > 1e6
    assert found["coin_hts_backups", ""] == 1
    assert found["coin_hts_backup_newest_age_seconds", ""] == pytest.approx(3 * 3600, abs=600)
    assert found["coin_hts_drill_last_ok", ""] == 0
    assert found["coin_hts_drill_last_age_seconds", ""] == pytest.approx(3 * 3600, abs=600)
    assert found["coin_hts_scrape_duration_seconds", ""] > 0


def test_without_postgres_the_rest_is_served(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url="postgresql://u:hush@127.0.0.1:1/x")
    CandleStore(settings.root).merge("KRW-BTC", "1D", candles(3), source="files")
    with served(settings) as scrape:
        found = scrape()
    assert found["coin_hts_postgres_up", ""] == 0
    assert found["coin_hts_candles_rows", "1D"] == 3
    assert ("coin_hts_tasks", "queued") not in found, "not known, which is not none"
    assert ("coin_hts_daemon_up", "") not in found


def test_scrapes_within_seconds_cost_one_reading(settings: Settings, database: Database) -> None:
    clock = Clock()
    with served(settings, clock) as scrape:
        assert scrape()["coin_hts_tasks", "queued"] == 0
        TaskQueue(database).submit(request())
        clock.now = 9.9
        assert scrape()["coin_hts_tasks", "queued"] == 0
        clock.now = 10.1
        assert scrape()["coin_hts_tasks", "queued"] == 1


def test_backups_are_looked_at_every_five_minutes(settings: Settings) -> None:
    clock = Clock()
    with served(settings, clock) as scrape:
        assert scrape()["coin_hts_backups", ""] == 0
        back_up(settings, passed=True)
        clock.now = 280
        assert scrape()["coin_hts_backups", ""] == 0
        clock.now = 301
        found = scrape()
    assert found["coin_hts_backups", ""] == 1
    assert found["coin_hts_drill_last_ok", ""] == 1


def test_backups_out_of_reach_take_nothing_down(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Settings) -> metrics.Backups:
        raise RuntimeError("no store")

    monkeypatch.setattr(metrics, "read_backups", fail)
    with served(settings) as scrape:
        found = scrape()
    assert ("coin_hts_disk_free_bytes", "data") in found
    assert ("coin_hts_backups", "") not in found, "how many there are nobody knows"


# ---- names and the dashboard


def exported(settings: Settings, database: Database) -> dict[str, Any]:
    """Every family there can be."""
    back_up(settings, passed=True)
    CandleStore(settings.root).merge("KRW-BTC", "1D", candles(3), source="files")
    import sqlalchemy as sa

    with database.session() as session:
        session.execute(sa.text("CREATE TABLE dagster.daemon_heartbeats (timestamp timestamp, body text)"))
        session.execute(sa.text("INSERT INTO dagster.daemon_heartbeats VALUES (now() AT TIME ZONE 'UTC', '{}')"))
    try:
        return {family.name: family for family in InstanceCollector(settings).collect()}
    finally:
        with database.session() as session:
            session.execute(sa.text("DROP TABLE dagster.daemon_heartbeats"))


def test_names_and_the_dashboard(settings: Settings, database: Database) -> None:
    families = exported(settings, database)
    assert families["coin_hts_daemon_up"].samples[0].value == 1
    for name, family in families.items():
        assert re.fullmatch(r"coin_hts_[a-z0-9_]+", name)
        assert family.type == "gauge"
        assert not name.endswith(("_total", "_count", "_ms", "_percent")), "gauges in base units"
    dashboard = json.loads(DASHBOARD.read_text())
    used = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\bcoin_hts_\w+", target["expr"])
    }
    assert used == set(families), "every figure is shown, and nothing else"


def test_the_dashboard_is_one() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["title"] == "coin-hts"
    assert [(one["name"], one["type"], one["query"]) for one in dashboard["templating"]["list"]] == [
        ("datasource", "datasource", "prometheus")
    ]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids) > 10
    cells = set()
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["type"] in ("stat", "timeseries")
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & mine, "panels overlap"
        cells |= mine
