"""What the command line knows of the instance without importing Dagster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.catalog.database import dagster_url
from coin_hts_pipelines.control.pages import run_url, task_url
from coin_hts_pipelines.control.tasks import is_daemon_silent
from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.defs.helpers import home

__all__ = ["home", "new_database"]


@pytest.fixture
def database(new_database: Callable[[], str]) -> Iterator[Database]:
    made = Database(new_database(), pool_size=1)
    made.upgrade()
    yield made
    made.dispose()


def test_a_daemon_is_heard_of_by_its_heartbeat(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_daemon_silent(database), "Dagster's tables are not there yet"
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", dagster_url(database.url.render_as_string(hide_password=False)))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("COIN_HTS_DAGSTER_STORAGE", str(tmp_path))
    with dg.DagsterInstance.from_config(str(CHECKOUT)) as instance:
        assert is_daemon_silent(database), "none was ever started"
        for age, silent in ((1000, True), (130, True), (90, False), (0, False)):
            instance.wipe_daemon_heartbeats()
            instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - age, "SENSOR", "id", []))
            assert is_daemon_silent(database) is silent, age


@pytest.mark.parametrize(
    ("environment", "base"),
    [
        ({}, "http://127.0.0.1:3000"),
        ({"COIN_HTS_PORT": "4000"}, "http://127.0.0.1:4000"),
        ({"COIN_HTS_UI_URL": "https://dagster.example/ui/"}, "https://dagster.example/ui"),
    ],
)
def test_links(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], base: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    request.getfixturevalue("home")
    assert run_url("r1") == f"{base}/runs/r1"
    assert run_url(None) is None
    assert task_url("t 1") == f"{base}/assets/backtest_task?view=partitions&partition=t+1"
