"""The job and the schedule of the retention."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.retention import prune_old, prune_storage_schedule
from coin_hts_pipelines_tests.control import test_retention as control
from coin_hts_pipelines_tests.control.run_maker import RunMaker

new_database, url, maker, folders = control.new_database, control.url, control.maker, control.folders

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]


def run(maker: RunMaker) -> tuple[dg.ExecuteInProcessResult, dict[str, Any]]:
    """Run the job as it is loaded; its result, and the metadata of the op's output."""
    job = build_defs().resolve_job_def("prune_storage")
    result = job.execute_in_process(instance=maker.instance, raise_on_error=False)
    (output,) = (event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_OUTPUT)
    return result, {name: one.value for name, one in output.step_output_data.metadata.items()}


def test_the_job_says_what_it_removed_and_what_the_tables_take(maker: RunMaker, folders: Path) -> None:
    maker.made(("candles_1d", "a|2024"), days=1)
    before = maker.runs()
    result, told = run(maker)
    assert result.success
    assert (told["runs"], told["kept runs"], told["run folders"], told["bytes of files"]) == (1, 0, 2, 10)
    assert told["problems"] == {}
    sizes = {one["name"]: one for one in told["tables"]}
    assert sizes["dagster.event_logs"]["bytes_before"] > 0
    assert sizes["dagster.event_logs"]["rows_after"] > 0
    assert len(before - maker.runs()) == 1
    assert result.run_id in maker.runs(), "the run that prunes is not finished"


def test_the_run_fails_at_its_end_naming_what_could_not_be_removed(maker: RunMaker, folders: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coin_hts_pipelines.operations.retention.prune_inbox", lambda *_, **__: 1 / 0)
        result, told = run(maker)
    assert not result.success
    assert (list(told["problems"]), told["run folders"]) == (["inbox files"], 2)
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    failed = failure.step_failure_data.user_failure_data
    assert failed is not None
    assert failed.description == "could not be removed: inbox files: ZeroDivisionError: division by zero"
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_it_runs_every_night_in_seoul_without_being_asked_for() -> None:
    schedule = prune_storage_schedule()
    assert schedule.name == f"{schedule.job.name}_schedule" == "prune_storage_schedule"
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 3 * * *", "Asia/Seoul")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert "COIN_HTS_RETENTION_RUN_DAYS" in (schedule.description or "")
    assert schedule.name in [one.name for one in build_defs().schedules or ()]
    at = datetime(2025, 6, 2, 3, 30, tzinfo=ZoneInfo("Asia/Seoul"))
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(instance=instance, scheduled_execution_time=at)
        (request,) = schedule.evaluate_tick(context).run_requests or ()
    assert request.job_name in (None, "prune_storage")


def test_no_export_is_made_while_old_ones_are_removed() -> None:
    assert prune_old.pool == "export_store"
