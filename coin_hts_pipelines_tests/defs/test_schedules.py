"""The refresh of candles by the clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.partitions import SYMBOLS, year_partitions
from coin_hts_pipelines.defs.schedules import RANGE_END, RANGE_START
from coin_hts_pipelines_tests.defs.helpers import forget_settings

KST = ZoneInfo("Asia/Seoul")

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]


def schedules() -> dict[str, Any]:
    found = build_defs().schedules or ()
    return {one.name: one for one in found}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    # On disk: a schedule opens the instance by reference.
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.mark.parametrize(
    ("name", "cron"),
    [("refresh_candles_1d_schedule", "5 9 * * *"), ("refresh_candles_1h_schedule", "2 * * * *")],
)
def test_days_are_refreshed_when_upbits_day_turns_and_hours_every_hour(name: str, cron: str) -> None:
    schedule = schedules()[name]
    assert (schedule.cron_schedule, schedule.execution_timezone) == (cron, "Asia/Seoul")
    assert schedule.job.name == name.removesuffix("_schedule")
    assert schedule.description


def test_minutes_have_no_schedule() -> None:
    assert sorted(schedules()) == ["refresh_candles_1d_schedule", "refresh_candles_1h_schedule"]


@pytest.mark.parametrize(
    ("source", "status"),
    [("", "STOPPED"), ("sample", "STOPPED"), ("files", "STOPPED"), ("exchange:upbit", "RUNNING")],
)
def test_schedules_are_on_once_the_source_is_live(source: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_SOURCE", source)
    forget_settings()
    assert {schedule.default_status.value for schedule in schedules().values()} == {status}


@pytest.mark.parametrize(
    ("name", "at", "years"),
    [
        ("refresh_candles_1d_schedule", datetime(2025, 6, 1, 9, 5, tzinfo=KST), ("2025", "2025")),
        # The candle of December 31st closes at 09:00 in Seoul on January 1st.
        ("refresh_candles_1d_schedule", datetime(2026, 1, 1, 9, 5, tzinfo=KST), ("2025", "2026")),
        ("refresh_candles_1d_schedule", datetime(2026, 1, 2, 9, 5, tzinfo=KST), ("2026", "2026")),
        ("refresh_candles_1h_schedule", datetime(2025, 6, 1, 12, 2, tzinfo=KST), ("2025", "2025")),
        # In Seoul it is the new year already, in UTC not: its partition does not exist yet.
        ("refresh_candles_1h_schedule", datetime(2026, 1, 1, 0, 2, tzinfo=KST), ("2025", "2025")),
        ("refresh_candles_1h_schedule", datetime(2026, 1, 1, 8, 2, tzinfo=KST), ("2025", "2025")),
        ("refresh_candles_1h_schedule", datetime(2026, 1, 1, 9, 2, tzinfo=KST), ("2025", "2026")),
        ("refresh_candles_1h_schedule", datetime(2026, 1, 1, 10, 2, tzinfo=KST), ("2026", "2026")),
    ],
)
def test_one_run_over_all_symbols_and_the_year_of_the_closed_bar(
    instance: dg.DagsterInstance, name: str, at: datetime, years: tuple[str, str]
) -> None:
    instance.add_dynamic_partitions(SYMBOLS, ["KRW-XRP", "KRW-BTC", "KRW-ADA"])
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=at)
    (request,) = schedules()[name].evaluate_tick(context).run_requests
    assert request.tags[RANGE_START] == f"KRW-XRP|{years[0]}"
    assert request.tags[RANGE_END] == f"KRW-ADA|{years[1]}"
    assert request.run_key
    with dg.partition_loading_context(at):
        assert years[1] in year_partitions().get_partition_keys()


def test_a_tick_is_requested_once_however_often_it_is_evaluated(instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions(SYMBOLS, ["KRW-BTC"])
    schedule = schedules()["refresh_candles_1h_schedule"]
    keys = [
        schedule.evaluate_tick(
            dg.build_schedule_context(
                instance=instance, scheduled_execution_time=datetime(2025, 6, 1, hour, 2, tzinfo=KST)
            )
        )
        .run_requests[0]
        .run_key
        for hour in (1, 1, 2)
    ]
    assert keys[0] == keys[1] != keys[2]


def test_without_symbols_there_is_nothing_to_do(instance: dg.DagsterInstance) -> None:
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=datetime(2025, 6, 1, 9, 5, tzinfo=KST)
    )
    answer = schedules()["refresh_candles_1d_schedule"].evaluate_tick(context)
    assert not answer.run_requests
    assert "no symbols are registered" in (answer.skip_message or "")
