"""What the doctor finds on the Dagster instance."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo

from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.catalog import Preset
from coin_hts_pipelines.control import health
from coin_hts_pipelines.control.presets import register_preset, unregister_preset


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def beat(instance: dg.DagsterInstance, *, age: float = 0, error: str | None = None) -> None:
    errors = [SerializableErrorInfo(error, [], None)] if error else []
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - age, "SENSOR", "id", errors))


def test_a_throw_away_instance_is_a_fault() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        finding = health._storage(instance)
    assert finding.state == "fail"
    assert "DAGSTER_HOME is not set" in finding.detail


def test_a_lasting_instance_is_fine(instance: dg.DagsterInstance) -> None:
    finding = health._storage(instance)
    assert (finding.name, finding.state) == ("dagster", "ok")
    assert dg.__version__ in finding.detail


def test_the_daemon(instance: dg.DagsterInstance) -> None:
    assert health._daemon(instance).state == "warn"
    assert "`make up` starts it" in health._daemon(instance).detail
    beat(instance, age=600)
    assert (health._daemon(instance).state, health._daemon(instance).detail[:14]) == ("warn", "last heartbeat")
    beat(instance)
    assert health._daemon(instance).state == "ok"
    beat(instance, error="it broke\nat line 3")
    assert (health._daemon(instance).state, health._daemon(instance).detail) == ("fail", "it broke")


def test_runs_that_are_not_finished_are_counted(instance: dg.DagsterInstance) -> None:
    @dg.job
    def nothing() -> None:
        """Does nothing."""

    for status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.SUCCESS):
        instance.create_run_for_job(nothing, status=status)
    finding = health._runs(instance)
    assert (finding.state, finding.detail) == ("ok", "2 running, 0 queued")


def test_a_preset_is_a_partition(instance: dg.DagsterInstance) -> None:
    preset = Preset("swing_1h", BacktestRequest("volume_long_candle", timeframe="1H"))
    for _ in range(2):
        register_preset(instance, preset)
        assert list(instance.get_dynamic_partitions("presets_1h")) == ["swing_1h"]
    unregister_preset(instance, preset)
    assert list(instance.get_dynamic_partitions("presets_1h")) == []
