"""What happens by the clock: the refresh of candles, and walk-forwards once a week."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from coin_hts_pipelines.defs import build_defs
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START, SYMBOLS, year_partitions
from coin_hts_pipelines_tests.defs.helpers import forget_settings, materialized

KST = ZoneInfo("Asia/Seoul")

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]


def schedules(kind: str = "") -> dict[str, Any]:
    found = build_defs().schedules or ()
    return {one.name: one for one in found if one.name.startswith(kind)}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    # On disk: a schedule opens the instance by reference.
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.mark.parametrize(
    ("timeframe", "environment", "cron"),
    [
        ("1d", {}, "5 0 * * *"),
        ("1d", {"COIN_HTS_DAILY_AT": "01:30"}, "30 1 * * *"),
        ("1h", {}, "2 * * * *"),
        ("5m", {}, "*/5 * * * *"),
        ("1m", {}, "*/5 * * * *"),
        ("1w", {"COIN_HTS_TIMEFRAMES": "1W"}, "2 * * * *"),
        ("4h", {"COIN_HTS_TIMEFRAMES": "4H"}, "2 * * * *"),
    ],
)
def test_candles_are_refreshed_soon_after_they_close(
    monkeypatch: pytest.MonkeyPatch, timeframe: str, environment: dict[str, str], cron: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget_settings()
    schedule = schedules()[f"refresh_candles_{timeframe}_schedule"]
    assert (schedule.cron_schedule, schedule.execution_timezone) == (cron, "UTC")
    assert schedule.job.name == f"refresh_candles_{timeframe}"
    assert schedule.description


@pytest.mark.parametrize(
    ("source", "status"),
    [("", "STOPPED"), ("sample", "STOPPED"), ("files", "STOPPED"), ("exchange:upbit", "RUNNING")],
)
def test_schedules_are_on_once_the_source_is_live(source: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_SOURCE", source)
    forget_settings()
    assert {schedule.default_status.value for schedule in schedules("refresh").values()} == {status}


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


# ---- walk-forwards

MONDAY = datetime(2025, 6, 2, 4, 0, tzinfo=KST)
PAIR = ("preset", "symbol")


def weekly(instance: dg.DagsterInstance, at: datetime = MONDAY) -> Any:
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=at)
    return schedules()["renew_walk_forwards_1d_schedule"].evaluate_tick(context)


def boxes(instance: dg.DagsterInstance) -> list[tuple[str, str]]:
    """First and last key of every requested run."""
    return [(one.tags[RANGE_START], one.tags[RANGE_END]) for one in weekly(instance).run_requests]


@pytest.fixture
def stocked(instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """Two presets on three symbols, one of which has no backtest yet."""
    instance.add_dynamic_partitions(SYMBOLS, ["KRW-ADA", "KRW-BTC", "KRW-ETH"])
    instance.add_dynamic_partitions("presets_1d", ["long_1d", "zone_1d"])
    for preset in ("long_1d", "zone_1d"):
        for symbol in ("KRW-BTC", "KRW-ETH"):
            instance.report_runless_asset_event(materialized("backtests_1d", f"{preset}|{symbol}", PAIR))
    return instance


def test_walk_forwards_are_redone_early_on_monday_without_being_asked_for() -> None:
    found = schedules("renew")
    assert sorted(found) == [f"renew_walk_forwards_{suffix}_schedule" for suffix in ("1d", "1h", "1m", "5m")]
    for name, schedule in found.items():
        assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 4 * * 1", "Asia/Seoul")
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
        assert schedule.job.name == name.removesuffix("_schedule")
        assert schedule.description


def test_what_has_a_backtest_is_walked_forward_in_one_run(stocked: dg.DagsterInstance) -> None:
    assert boxes(stocked) == [("long_1d|KRW-BTC", "zone_1d|KRW-ETH")]


def test_what_has_not_changed_since_is_left_alone(stocked: dg.DagsterInstance) -> None:
    for key in ("long_1d|KRW-BTC", "long_1d|KRW-ETH", "zone_1d|KRW-BTC", "zone_1d|KRW-ETH"):
        stocked.report_runless_asset_event(materialized("walk_forwards_1d", key, PAIR))
    answer = weekly(stocked)
    assert not answer.run_requests
    assert answer.skip_message == "no 1D backtest is newer than its walk-forward"
    stocked.report_runless_asset_event(materialized("backtests_1d", "zone_1d|KRW-ETH", PAIR))
    assert boxes(stocked) == [("zone_1d|KRW-ETH", "zone_1d|KRW-ETH")]


def test_pairs_that_are_no_rectangle_are_several_runs(stocked: dg.DagsterInstance) -> None:
    stocked.report_runless_asset_event(materialized("walk_forwards_1d", "long_1d|KRW-BTC", PAIR))
    requests = weekly(stocked).run_requests
    assert len({one.run_key for one in requests}) == len(requests) == 2
    assert sorted(boxes(stocked)) == [
        ("long_1d|KRW-ETH", "long_1d|KRW-ETH"),
        ("zone_1d|KRW-BTC", "zone_1d|KRW-ETH"),
    ]


def test_removed_presets_and_symbols_are_forgotten(stocked: dg.DagsterInstance) -> None:
    stocked.delete_dynamic_partition("presets_1d", "long_1d")
    stocked.delete_dynamic_partition(SYMBOLS, "KRW-BTC")
    assert boxes(stocked) == [("zone_1d|KRW-ETH", "zone_1d|KRW-ETH")]


def test_a_week_is_requested_once_however_often_it_is_evaluated(stocked: dg.DagsterInstance) -> None:
    later = datetime(2025, 6, 9, 4, 0, tzinfo=KST)
    keys = [weekly(stocked, at).run_requests[0].run_key for at in (MONDAY, MONDAY, later)]
    assert keys[0] == keys[1] != keys[2]


def test_without_backtests_nothing_is_walked_forward(instance: dg.DagsterInstance) -> None:
    assert not weekly(instance).run_requests
