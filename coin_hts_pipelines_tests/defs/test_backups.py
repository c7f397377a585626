"""The jobs of backup and drill on a real instance, what people hear of them, and when they run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.control.backup import BACKUP_JOB, DRILL_JOB
from coin_hts_pipelines.control.instance import open_database
from coin_hts_pipelines.control.run_owners import OWNER_TAG, end_dead_runs
from coin_hts_pipelines.defs import alert_sensors, backups, build_defs
from coin_hts_pipelines.operations.backup import last_drill, list_backups, open_target
from coin_hts_pipelines.operations.processes import process_token
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.defs.helpers import forget_settings
from coin_hts_pipelines_tests.defs.test_alert_sensors import World, instance_on, settled
from coin_hts_pipelines_tests.operations.backup.helpers import House
from coin_hts_pipelines_tests.operations.backup.test_drill import publish_computed

__all__ = ["_migrated", "database", "new_database", "settled"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]


@pytest.fixture
def world(settled: None, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """An instance whose DATA_ROOT has candles and a result; nothing waits for a second try."""
    for op in (backups.make_backup, backups.restore_for_practice):
        monkeypatch.setattr(op, "_retry_policy", dg.RetryPolicy(max_retries=1))
    house = House(get_settings().root.parent, database)
    house.merge("KRW-BTC")
    publish_computed(house, "KRW-BTC")
    (tmp_path / "dagster").mkdir()
    with instance_on(database, tmp_path / "dagster", {"run_retries": {"enabled": False}}) as instance:
        yield World(instance, database)
    open_database().dispose()


def run(world: World, job: str) -> dg.ExecuteInProcessResult:
    resolved = build_defs().resolve_job_def(job)
    return resolved.execute_in_process(instance=world.instance, raise_on_error=False)


def told(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    outputs = (event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_OUTPUT)
    return {name: one.value for event in outputs for name, one in event.step_output_data.metadata.items()}


def test_a_night_and_a_sunday(world: World) -> None:
    made = run(world, BACKUP_JOB)
    assert made.success
    target = open_target(get_settings())
    (backup,) = list_backups(target)
    figures = told(made)
    assert (figures["backup"], figures["files"], figures["bytes"]) == (backup.id, len(backup.files), backup.size)
    assert figures["pruned"] == []
    again = told(run(world, BACKUP_JOB))
    assert (again["pruned"], len(list_backups(target))) == ([backup.id], 1), "one a day is kept"
    practised = run(world, DRILL_JOB)
    assert practised.success
    report = last_drill(target)
    assert report is not None
    assert report.passed
    assert report.recomputed is not None
    figures = told(practised)
    assert (figures["backup"], figures["results"]) == (again["backup"], 1)
    assert (figures["recomputed"], figures["passed"]) == (report.recomputed, True)
    stored = world.instance.get_run_by_id(practised.run_id)
    assert stored is not None
    assert OWNER_TAG in stored.tags, "a dead process would be noticed"
    assert world.tick() == "nothing failed"


def test_what_fails_is_an_alert_of_its_own_kind_until_it_goes_well(world: World) -> None:
    assert not run(world, DRILL_JOB).success  # there is no backup
    place = get_settings().backups
    shutil.rmtree(place)
    place.write_text("no folder")
    assert not run(world, BACKUP_JOB).success
    world.tick()
    found = {one.alert.kind: one for one in world.alerts}
    assert found.keys() == {"backup_failed", "drill_failed"}
    assert found["backup_failed"].alert.title == "no backup was made"
    assert str(place) in found["backup_failed"].alert.text
    assert "backup 'latest' is unknown" in found["drill_failed"].alert.text
    assert all("/runs/" in (one.alert.link or "") for one in found.values())
    place.unlink()
    assert run(world, BACKUP_JOB).success
    assert run(world, DRILL_JOB).success
    assert world.tick() == "backup is good again; backup drill is good again"


def test_a_prune_that_fails_is_an_alert_of_its_own_and_makes_no_more_backups(world: World) -> None:
    assert run(world, BACKUP_JOB).success
    target = open_target(get_settings())
    (first,) = list_backups(target)
    manifest = get_settings().backups / f"{first.id}.json"
    content = manifest.read_bytes()
    manifest.write_text("{}")
    result = run(world, BACKUP_JOB)
    assert result.success, "the backup was made"
    assert len(list_backups(target)) == 1
    assert "nothing is pruned" in told(result)["problem"]
    assert [event for event in result.all_events if event.is_step_up_for_retry] == []
    world.tick()
    assert [one.alert.title for one in world.alerts] == ["old backups cannot be removed"]
    manifest.write_bytes(content)
    assert run(world, BACKUP_JOB).success
    assert not any(one.lasts for one in world.alerts)


def test_an_error_that_no_retry_mends_is_not_retried(world: World) -> None:
    result = run(world, DRILL_JOB)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_one_whose_process_was_killed_is_an_alert_too(world: World) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    token = process_token(process.pid)
    begun = world.instance.create_run_for_job(backups.backup_job, status=dg.DagsterRunStatus.STARTED)
    world.instance.add_run_tags(begun.run_id, {OWNER_TAG: f"{token}/{begun.run_id}"})
    assert end_dead_runs(world.instance) == []
    process.kill()
    process.communicate()
    assert end_dead_runs(world.instance) == [begun.run_id]
    assert world.tick() == "no backup was made"
    assert world.alerts[-1].alert.kind == "backup_failed"


def test_one_that_is_in_the_way_is_tried_again(world: World) -> None:
    with open_target(get_settings()).exclusive():
        result = run(world, BACKUP_JOB)
    assert [event for event in result.all_events if event.is_step_up_for_retry]
    assert not result.success
    stored = world.instance.get_run_by_id(result.run_id)
    assert stored is not None
    assert stored.status is dg.DagsterRunStatus.CANCELED
    assert world.tick() == "nothing failed"


@pytest.mark.parametrize(
    ("job", "cron"), [(BACKUP_JOB, "15 2 * * *"), (DRILL_JOB, "30 4 * * 0")], ids=["daily", "weekly"]
)
def test_by_the_clock_of_seoul(settled: None, monkeypatch: pytest.MonkeyPatch, job: str, cron: str) -> None:
    monkeypatch.setenv("COIN_HTS_BACKUP_AT", "02:15")
    forget_settings()
    (schedule,) = (one for one in build_defs().schedules or () if one.name == f"{job}_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == (cron, "Asia/Seoul")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert schedule.job.name == job


START = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_backup_that_nobody_makes(world: World) -> None:
    sensor, cursor = alert_sensors.backup_sensor(), None

    def look(hours: float) -> str:
        nonlocal cursor
        with clock.simulated(lambda: START + timedelta(hours=hours)):
            answer: Any = sensor(dg.build_sensor_context(instance=world.instance, cursor=cursor))
        cursor = answer.cursor
        return str(answer.skip_reason.skip_message)

    fine, late = "the backups are young enough", "no backup for more than 26 hours"
    assert [look(0), look(25), look(27)] == [fine, fine, late]
    assert "not a single good one" in world.alerts[-1].alert.text
    with clock.simulated(lambda: START + timedelta(hours=28)):
        assert run(world, BACKUP_JOB).success
    assert [look(28), look(53), look(55)] == [fine, fine, late]
    assert "2026-03-02 04:00 UTC" in world.alerts[-1].alert.text
    place = get_settings().backups
    shutil.rmtree(place)
    place.write_text("no folder")
    assert look(56) == "the backups cannot be looked at"
    assert {one.alert.kind for one in world.alerts} == {"backup_failed"}
