"""How Dagster finds the instance: variables, `.env`, dagster.yaml."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dotenv import dotenv_values

from coin_hts_pipelines.catalog import dagster_url
from coin_hts_pipelines.control.instance import database_url, instance_variables, write_env_file
from coin_hts_pipelines.operations.embedded_postgres import find_server
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines_tests.conftest import CHECKOUT

VARIABLES = {"DAGSTER_HOME": "/a b/c", "DAGSTER_POSTGRES_URL": "postgresql+psycopg2://u:p%40s@/d?options=-csearch"}
BLOCK_LINES = len(VARIABLES) + 2


# ---- .env


@pytest.mark.parametrize(
    "before",
    ["", "COIN_HTS_PORT=4000\n", "COIN_HTS_PORT=4000", "# a note\n\nA=1\n\n# another\nB='x y'\n"],
)
def test_lines_of_others_stay(tmp_path: Path, before: str) -> None:
    path = tmp_path / ".env"
    if before:
        path.write_text(before)
    assert write_env_file(path, VARIABLES) is True
    text = path.read_text()
    assert text.startswith(before)
    assert dict(dotenv_values(path)) == {**_read(before, tmp_path), **VARIABLES}
    assert write_env_file(path, VARIABLES) is False, "nothing changed"
    assert path.read_text() == text


def _read(text: str, folder: Path) -> dict[str, str | None]:
    (folder / "other").write_text(text)
    return dict(dotenv_values(folder / "other"))


def test_the_block_is_replaced_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    write_env_file(path, VARIABLES)
    path.write_text(path.read_text() + "B=2\n\n# the end\n")
    assert write_env_file(path, {"DAGSTER_HOME": "/new"}) is True
    lines = path.read_text().splitlines()
    assert lines[0] == "A=1"
    assert lines[2] == "DAGSTER_HOME='/new'"
    assert lines[4:] == ["B=2", "", "# the end"]
    write_env_file(path, VARIABLES)
    assert len(path.read_text().splitlines()) == 4 + BLOCK_LINES


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    before = os.umask(0o022)
    try:
        write_env_file(path, VARIABLES)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    write_env_file(path, {"A": "changed"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [".env"]


# ---- variables


def test_the_variables_of_an_instance(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, data_root=Path("candles"))
    url = "postgresql://u:p@h/d"
    variables = instance_variables(settings, url)
    assert variables["DAGSTER_HOME"] == str(tmp_path)
    assert variables["DAGSTER_POSTGRES_URL"] == dagster_url(url)
    assert variables["COIN_HTS_DAGSTER_STORAGE"] == str(tmp_path / "candles" / "dagster")
    assert "coin_hts_pipelines.definitions" in variables.values()
    assert int(variables["DAGSTER_EVENT_BATCH_SIZE"]) > 100
    assert all(Path(value).is_absolute() for name, value in variables.items() if name.endswith(("HOME", "STORAGE")))


def test_a_database_of_ones_own_starts_no_server(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url="postgresql://u:p@h/d")
    assert database_url(settings) == "postgresql://u:p@h/d"
    assert find_server(settings.postgres) is None
    assert not settings.postgres.exists()


# ---- dagster.yaml


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    return loaded


@pytest.fixture
def instance(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    # Without a schema of its own, so that nothing has to be made first.
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres_url)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("COIN_HTS_DAGSTER_STORAGE", str(tmp_path / "storage"))
    with dg.DagsterInstance.from_config(str(CHECKOUT)) as made:
        yield made


def test_dagster_reads_the_file(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        assert type(storage).__module__.startswith("dagster_postgres.")
    assert not instance.is_ephemeral
    assert instance.telemetry_enabled is False
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_runtime_seconds > 3600
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 1
    assert instance.get_settings("run_retries")["retry_on_asset_or_op_failure"] is False
    assert instance.schedules_directory() == str(tmp_path / "storage" / "schedules")
    concurrency = instance.get_concurrency_config()
    assert concurrency.pool_config.default_pool_limit == 1
    assert concurrency.run_queue_config is not None
    assert concurrency.run_queue_config.max_concurrent_runs == 4
    assert instance.get_sensor_settings() == {"use_threads": True, "num_workers": 4}
    assert instance.get_tick_retention_settings(_kind("SENSOR"))
    assert instance.get_tick_retention_settings(_kind("SCHEDULE"))


def _kind(name: str) -> Any:
    from dagster._core.scheduler.instigation import InstigatorType  # no public name

    return InstigatorType[name]


def test_storage_is_one_block_without_a_secret(document: dict[str, Any]) -> None:
    assert document["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    assert {"run_storage", "event_log_storage", "schedule_storage"}.isdisjoint(document)


def test_runs_are_watched_and_old_ticks_are_purged(document: dict[str, Any]) -> None:
    monitoring = document["run_monitoring"]
    assert monitoring["enabled"] is True
    assert {"max_runtime_seconds", "free_slots_after_run_end_seconds"} <= set(monitoring)
    assert set(document["retention"]) == {"schedule", "sensor"}
    assert document["telemetry"] == {"enabled": False}
    assert document["run_queue"] == {"dequeue_interval_seconds": 1}
