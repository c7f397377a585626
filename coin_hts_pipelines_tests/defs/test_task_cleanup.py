"""The job and the schedule of the clean-up."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from coin_hts_pipelines.control.tasks import TASKS_PARTITIONS
from coin_hts_pipelines.defs.task_cleanup import task_cleanup_job, task_cleanup_schedule
from coin_hts_pipelines_tests.control import test_task_cleanup as control
from coin_hts_pipelines_tests.tasks.test_cleanup import Place, finish, size_of

new_database, _migrated, database = control.new_database, control._migrated, control.database
place, instance = control.place, control.instance

pytestmark = [pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning")]


def clean(instance: dg.DagsterInstance) -> tuple[dg.ExecuteInProcessResult, dict[str, Any]]:
    """Run the job; its result, and the metadata of the op's output."""
    result = task_cleanup_job.execute_in_process(instance=instance, raise_on_error=False)
    (output,) = (event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_OUTPUT)
    return result, {name: one.value for name, one in output.step_output_data.metadata.items()}


def test_the_job_says_what_it_removed(place: Place, instance: dg.DagsterInstance) -> None:
    goes, stays = finish(place, "completed", 31), finish(place, "completed", 1)
    instance.add_dynamic_partitions(TASKS_PARTITIONS, [goes, stays])
    (place.store.root / "stray").mkdir()
    size = size_of(place, goes)
    result, told = clean(instance)
    assert result.success
    assert told == {
        "removed": 1,
        "bytes": size,
        "kept": 1,
        "tasks": [{"id": goes, "state": "completed", "bytes": size}],
        "problems": {},
        "unknown": ["stray"],
    }
    assert instance.get_dynamic_partitions(TASKS_PARTITIONS) == [stays]
    assert place.store.ids() == [stays, "stray"]


def test_the_run_fails_at_its_end_naming_what_could_not_be_removed(place: Place, instance: dg.DagsterInstance) -> None:
    bad, good = finish(place, "completed", 32), finish(place, "completed", 31)
    folder = place.store.folder(bad)
    folder.rename(place.root / "elsewhere")
    folder.touch()
    result, told = clean(instance)
    assert not result.success
    assert ([one["id"] for one in told["tasks"]], list(told["problems"])) == ([good], [bad])
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    failed = failure.step_failure_data.user_failure_data
    assert failed is not None
    assert failed.description == (
        f"could not be removed: {bad}: {folder} is not a directory of a task but a link or a file; move it away"
    )
    assert failed.metadata["problems"].value == told["problems"]
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_it_runs_every_midnight_in_seoul_without_being_asked_for(instance: dg.DagsterInstance) -> None:
    schedule = task_cleanup_schedule()
    assert schedule.name == f"{schedule.job.name}_schedule" == "clean_up_tasks_schedule"
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 0 * * *", "Asia/Seoul")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert "COIN_HTS_TASK_RESULT_TTL_DAYS" in (schedule.description or "")
    at = datetime(2025, 6, 2, tzinfo=ZoneInfo("Asia/Seoul"))
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=at)
    (request,) = schedule.evaluate_tick(context).run_requests or ()
    assert request.job_name in (None, "clean_up_tasks")
