"""What of real runs and checks becomes an alert, what does not, and what ends one; stale candles, full disks."""

from __future__ import annotations

import json
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, PARENT_RUN_ID_TAG, ROOT_RUN_ID_TAG, WILL_RETRY_TAG

from coin_hts_pipelines import clock
from coin_hts_pipelines.catalog import Coverage, Database, dagster_url
from coin_hts_pipelines.control.backup import PRUNE_ALERT
from coin_hts_pipelines.control.tasks import TASK_JOB
from coin_hts_pipelines.defs import alert_sensors, build_defs
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START
from coin_hts_pipelines.operations import alert_conditions
from coin_hts_pipelines.operations.alert_delivery import AlertOutbox, StoredAlert
from coin_hts_pipelines.settings import get_settings
from coin_hts_pipelines_tests.catalog.conftest import _migrated, database, new_database
from coin_hts_pipelines_tests.defs.helpers import forget_settings
from coin_hts_pipelines_tests.mail_server import webhook_server

__all__ = ["_migrated", "database", "new_database"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]

MINUTE = timedelta(minutes=1)
RETRIES = {"run_retries": {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": False}}
JOB = dg.job(name="refresh_candles_1d")(lambda: None)
TASKS = dg.job(name=TASK_JOB)(lambda: None)


@dg.op
def fail_with_a_reason() -> None:
    """Fails as our assets do."""
    raise dg.Failure("2 of 3 partitions failed: <KRW-BTC> & so on", allow_retries=False)


@dg.op
def fail_by_a_bug() -> None:
    """Fails as bugs do."""
    raise ZeroDivisionError("division by nothing")


@dg.job
def bad_job() -> None:
    fail_with_a_reason()


@dg.job
def buggy_job() -> None:
    fail_by_a_bug()


class World:
    """An instance, its catalog, and the sensor from tick to tick."""

    def __init__(self, instance: dg.DagsterInstance, database: Database) -> None:
        self.instance, self.database = instance, database
        self.cursor: str | None = None
        self.minutes = 0.0
        self.tick()

    def tick(self, minutes: float = 0) -> str:
        """One tick, so many minutes later."""
        self.minutes += minutes
        with clock.simulated(lambda: datetime.now(UTC) + self.minutes * MINUTE):
            answer: Any = alert_sensors.failure_sensor()(
                dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
            )
        self.cursor = answer.cursor
        return str(answer.skip_reason.skip_message)

    def fail(self, job: dg.JobDefinition = JOB, tags: dict[str, str] | None = None, **more: Any) -> dg.DagsterRun:
        """A run that crashed."""
        run = self.instance.create_run_for_job(job, tags=tags or {}, **more)
        self.instance.report_run_failed(run, "the process of this run ended")
        return self.run(run)

    def succeed(self, job: dg.JobDefinition = JOB, tags: dict[str, str] | None = None) -> None:
        assert job.execute_in_process(instance=self.instance, tags=tags or {}).success

    def run(self, run: dg.DagsterRun) -> dg.DagsterRun:
        found = self.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found

    @property
    def alerts(self) -> list[StoredAlert]:
        """Oldest first."""
        return AlertOutbox(self.database, []).list(limit=1000)[::-1]

    @property
    def titles(self) -> list[str]:
        return [one.alert.title for one in self.alerts]


@pytest.fixture
def settled(home: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_HTS_DATABASE_URL", database.url.render_as_string(hide_password=False))
    forget_settings()


def instance_on(database: Database, folder: Path, overrides: dict[str, Any]) -> dg.DagsterInstance:
    """An instance with its storage beside the catalog; runs and events of other tests lie before its first tick."""
    url = dagster_url(database.url.render_as_string(hide_password=False))
    return dg.DagsterInstance.local_temp(
        str(folder), overrides={"storage": {"postgres": {"postgres_url": url}}, **overrides}
    )


@pytest.fixture
def world(settled: None, database: Database, tmp_path: Path) -> Iterator[World]:
    """Runs are not tried again."""
    with instance_on(database, tmp_path, {"run_retries": {"enabled": False}}) as instance:
        yield World(instance, database)


@pytest.fixture
def retrying(settled: None, database: Database, tmp_path: Path) -> Iterator[World]:
    """Crashed runs are tried once more, as dagster.yaml has it."""
    with instance_on(database, tmp_path, RETRIES) as instance:
        yield World(instance, database)


# ---- runs


def test_a_failed_run_is_an_alert_with_its_reason_and_its_page(world: World) -> None:
    result = bad_job.execute_in_process(
        instance=world.instance, raise_on_error=False, tags={RANGE_START: "KRW-BTC|2024", RANGE_END: "KRW-XRP|2025"}
    )
    assert world.tick() == "bad_job failed"
    (one,) = world.alerts
    assert (one.alert.kind, one.alert.title, one.alert.severity) == ("run_failure", "bad_job failed", "error")
    assert one.alert.text.splitlines() == [
        "2 of 3 partitions failed: <KRW-BTC> & so on",
        "Partitions: KRW-BTC|2024 to KRW-XRP|2025",
    ]
    assert one.alert.link == f"http://127.0.0.1:3000/runs/{result.run_id}"
    assert world.tick() == "nothing failed"
    assert world.alerts[0].times == 1


def test_reasons_of_bugs_and_of_crashes(world: World) -> None:
    buggy_job.execute_in_process(instance=world.instance, raise_on_error=False)
    world.fail()
    world.tick()
    assert [one.alert.text for one in world.alerts] == [
        "ZeroDivisionError: division by nothing",
        "the process of this run ended",
    ]


def test_what_failed_before_anybody_watched_is_history(world: World) -> None:
    world.fail()
    world.cursor = None
    assert world.tick() == "nothing failed"
    assert world.tick() == "nothing failed"
    world.fail()
    world.tick()
    assert len(world.alerts) == 1


def test_canceled_runs_and_good_ones_and_those_of_tasks_are_none(world: World) -> None:
    world.succeed()
    world.fail(TASKS)
    run = world.instance.create_run_for_job(JOB)
    world.instance.report_run_canceling(run)
    world.instance.report_run_canceled(run)
    gone = world.fail()
    world.instance.delete_run(gone.run_id)
    assert world.tick() == "nothing failed"
    assert world.alerts == []


def test_the_same_work_is_one_finding_and_its_success_ends_it(world: World) -> None:
    here, there = {RANGE_START: "A|2025", RANGE_END: "B|2025"}, {"dagster/partition": "C|2025"}
    for tags in (here, there, here):
        world.fail(tags=tags)
    world.tick()
    assert [(one.times, one.alert.text.splitlines()[1]) for one in world.alerts] == [
        (2, "Partitions: A|2025 to B|2025"),
        (1, "Partitions: C|2025"),
    ]
    world.succeed(tags=there)
    world.succeed()
    assert "is good again" in world.tick()
    assert world.titles == ["refresh_candles_1d failed"] * 2 + ["Resolved: refresh_candles_1d failed"]
    assert [one.lasts for one in world.alerts] == [True, False, False]
    world.fail(tags=there)
    world.tick()
    assert [one.lasts for one in world.alerts] == [True, False, False, True]


def test_a_failure_that_is_good_again_within_a_tick_is_none(world: World) -> None:
    world.fail()
    world.succeed()
    assert world.tick() == "nothing failed"
    world.succeed()
    world.fail()
    assert world.tick() == "refresh_candles_1d failed"
    assert [one.lasts for one in world.alerts] == [True]


def test_what_a_person_ran_again_while_it_waited_is_none(retrying: World) -> None:
    """Of a killed run Dagster says that it will try again; a person was faster."""
    retrying.fail()
    assert retrying.tick(minutes=1) == "nothing failed"
    retrying.succeed()
    assert retrying.tick(minutes=1) == "nothing failed"
    assert retrying.tick(minutes=60) == "nothing failed"
    assert retrying.alerts == []


def test_a_success_ends_only_what_failed_before_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many successes wait: none of them is handled after a failure that came after it."""
    monkeypatch.setattr(alert_sensors, "_EVENTS", 2)
    for _ in range(5):
        world.succeed()
    world.fail()
    for _ in range(4):
        world.tick()
    assert [(one.alert.title, one.lasts) for one in world.alerts] == [("refresh_candles_1d failed", True)]
    for _ in range(5):
        world.fail(tags={"dagster/partition": "C|2025"})
    world.succeed()
    for _ in range(4):
        world.tick()
    assert world.titles[2:] == ["Resolved: refresh_candles_1d failed"]
    assert [one.lasts for one in world.alerts] == [False, True, False]


def test_a_run_of_assets_is_named_by_them(world: World) -> None:
    @dg.asset
    def candles_9x() -> None:
        raise dg.Failure("no", allow_retries=False)

    job = dg.Definitions(assets=[candles_9x]).resolve_implicit_global_asset_job_def()
    run = world.instance.create_run_for_job(job, asset_selection=frozenset({dg.AssetKey("candles_9x")}))
    world.instance.report_run_failed(run, "crashed")
    world.tick()
    assert world.titles == ["candles_9x failed"]


def test_a_run_that_is_tried_again_is_an_alert_only_after_the_last_attempt(retrying: World) -> None:
    first = retrying.fail()
    assert first.tags[WILL_RETRY_TAG] == "true"
    assert retrying.tick() == "nothing failed"
    assert retrying.tick(minutes=1) == "nothing failed"
    again = retrying.instance.create_run_for_job(
        JOB,
        parent_run_id=first.run_id,
        root_run_id=first.run_id,
        tags={ROOT_RUN_ID_TAG: first.run_id, PARENT_RUN_ID_TAG: first.run_id, "dagster/retry_number": "1"},
    )
    retrying.instance.add_run_tags(first.run_id, {AUTO_RETRY_RUN_ID_TAG: again.run_id})
    assert retrying.tick(minutes=60) == "nothing failed"
    retrying.instance.report_run_failed(again, "crashed again")
    assert retrying.run(again).tags[WILL_RETRY_TAG] == "false"
    assert retrying.tick() == "refresh_candles_1d failed"
    (one,) = retrying.alerts
    assert one.alert.text.splitlines() == ["crashed again", f"Tried again since run {first.run_id}."]
    assert retrying.tick(minutes=60) == "nothing failed"


def test_a_failure_that_passed_at_the_second_attempt_is_none(retrying: World) -> None:
    first = retrying.fail()
    retrying.tick()
    retrying.instance.add_run_tags(first.run_id, {AUTO_RETRY_RUN_ID_TAG: "next"})
    retrying.succeed(tags={"dagster/retry_number": "1"})
    assert retrying.tick(minutes=60) == "nothing failed"
    assert retrying.alerts == []


def test_a_run_that_should_be_tried_again_and_never_is_becomes_an_alert(retrying: World) -> None:
    """A run of a terminal that crashed: Dagster says it will try again, and then cannot."""
    retrying.fail()
    assert retrying.tick(minutes=4.9) == "nothing failed"
    assert retrying.tick(minutes=0.2) == "refresh_candles_1d failed"
    assert retrying.tick(minutes=60) == "nothing failed"


def test_a_step_that_failed_is_not_tried_again_and_is_an_alert_at_once(retrying: World) -> None:
    bad_job.execute_in_process(instance=retrying.instance, raise_on_error=False)
    assert "failed" in retrying.tick()


@pytest.mark.parametrize(
    ("status", "tags", "age", "retries", "verdict"),
    [
        ("FAILURE", {}, 0, False, "alert"),
        # The tag comes a moment after the event.
        ("FAILURE", {}, 0, True, "wait"),
        ("FAILURE", {}, 6, True, "alert"),
        ("FAILURE", {WILL_RETRY_TAG: "false"}, 0, True, "alert"),
        ("FAILURE", {WILL_RETRY_TAG: "true", AUTO_RETRY_RUN_ID_TAG: "x"}, 0, True, "forget"),
        # So does the status.
        ("STARTED", {}, 0, True, "wait"),
        ("STARTED", {}, 6, True, "forget"),
        ("SUCCESS", {}, 0, True, "forget"),
        ("CANCELED", {}, 0, False, "forget"),
    ],
)
def test_verdicts(status: str, tags: dict[str, str], age: float, retries: bool, verdict: str) -> None:
    run = dg.DagsterRun(job_name="job", status=dg.DagsterRunStatus[status], tags=tags)
    assert alert_sensors.judge(run, age * MINUTE, retries=retries) == verdict
    assert alert_sensors.judge(None, age * MINUTE, retries=retries) == "forget"


def test_nothing_is_lost_when_the_catalog_is_gone_for_a_tick(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fail()
    before = world.cursor
    with monkeypatch.context() as patch:

        def gone(*_: object) -> None:
            raise ConnectionError("Postgres is gone")

        patch.setattr(alert_sensors, "note_findings", gone)
        with pytest.raises(ConnectionError):
            world.tick()
    assert world.cursor == before
    world.tick()
    assert world.titles == ["refresh_candles_1d failed"]


# ---- checks

Evaluate = Callable[..., str]


@pytest.fixture
def evaluate(world: World) -> Evaluate:
    """Run an asset with a check that passes or not, and tick."""

    def go(
        passed: bool,
        name: str = "schema",
        severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
        tags: dict[str, str] | None = None,
        **metadata: Any,
    ) -> str:
        @dg.asset(name="candles_1d", check_specs=[dg.AssetCheckSpec(name, asset="candles_1d")])
        def asset() -> Iterator[Any]:
            yield dg.MaterializeResult(
                check_results=[
                    dg.AssetCheckResult(passed=passed, check_name=name, severity=severity, metadata=metadata)
                ]
            )

        assert dg.materialize([asset], instance=world.instance, tags=tags or {}).success
        return world.tick()

    return go


def test_a_failed_check_is_an_alert_and_a_passed_one_ends_it(world: World, evaluate: Evaluate) -> None:
    found = dg.MetadataValue.json({"KRW-BTC|2024": "high below low", "KRW-ETH|2024": "no volume"})
    for _ in range(2):
        assert evaluate(False, failing_partitions=found) == "check schema of candles_1d failed"
    (one,) = world.alerts
    assert (one.times, one.alert.kind, one.alert.severity) == (2, "failed_check", "error")
    assert one.alert.title == "check schema of candles_1d failed"
    assert one.alert.text == "KRW-BTC|2024: high below low\nKRW-ETH|2024: no volume"
    assert (one.alert.link or "").startswith("http://127.0.0.1:3000/runs/")
    assert evaluate(True, name="grid") == "nothing failed"
    assert evaluate(True) == "check schema of candles_1d is good again"
    assert evaluate(True) == "nothing failed"
    assert world.titles[-1] == "Resolved: check schema of candles_1d failed"


def test_warnings_are_none_but_for_stale_data(world: World, evaluate: Evaluate) -> None:
    warn = dg.AssetCheckSeverity.WARN
    assert evaluate(False, name="gaps", severity=warn) == "nothing failed"
    assert evaluate(False, name="freshness", severity=warn) == "candles_1d is stale"
    (one,) = world.alerts
    assert (one.alert.kind, one.alert.severity, one.alert.title) == ("stale_data", "warning", "candles_1d is stale")


HERE, THERE = {"dagster/partition": "KRW-BTC|2024"}, {"dagster/partition": "KRW-ETH|2024"}
FAILED, GOOD = "check schema of candles_1d failed", "check schema of candles_1d is good again"


def told(world: World, passed: bool, tags: dict[str, str]) -> str:
    """Report a check of the partitions of a run, and tick."""
    evaluation = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("candles_1d"), check_name="schema", passed=passed, metadata={}
    )
    run = world.instance.create_run_for_job(JOB, tags=tags)
    event = dg.DagsterEvent(dg.DagsterEventType.ASSET_CHECK_EVALUATION.value, JOB.name, event_specific_data=evaluation)
    world.instance.report_dagster_event(event, run.run_id)
    return world.tick()


def test_a_run_over_other_partitions_ends_nothing(world: World) -> None:
    assert told(world, False, HERE) == FAILED
    assert told(world, True, THERE) == "nothing failed"
    assert told(world, True, HERE) == GOOD


def test_a_check_is_good_again_when_the_last_partitions_pass(world: World) -> None:
    for tags in (HERE, HERE, THERE):
        assert told(world, False, tags) == FAILED
    assert told(world, True, THERE) == "nothing failed"
    assert told(world, True, {}) == "nothing failed"
    assert told(world, True, HERE) == GOOD
    assert told(world, True, THERE) == "nothing failed"


@pytest.mark.parametrize(("scope", "tags"), [(["KRW-BTC|2024"], HERE), ([], {})])
def test_a_cursor_of_an_older_version_is_read(world: World, scope: list[str], tags: dict[str, str]) -> None:
    told(world, False, tags)
    cursor = json.loads(world.cursor or "")
    cursor["failing"] = {"check schema of candles_1d": scope}
    world.cursor = json.dumps(cursor)
    assert told(world, True, THERE) == "nothing failed"
    assert told(world, True, tags) == GOOD


# ---- conditions


@pytest.fixture
def look(settled: None, monkeypatch: pytest.MonkeyPatch, database: Database) -> Callable[[float], str]:
    """Tick the sensor of conditions at so many minutes after the start, with disks that are half full."""
    monkeypatch.setenv("COIN_HTS_SOURCE", "exchange:upbit")
    monkeypatch.setenv("COIN_HTS_TIMEFRAMES", "1D,1H")
    forget_settings()
    get_settings().root.mkdir()
    _disk(monkeypatch, 50)
    cursor: list[str | None] = [None]

    def tick(minutes: float) -> str:
        with clock.simulated(lambda: START + minutes * MINUTE):
            answer: Any = alert_sensors.condition_sensor()(dg.build_sensor_context(cursor=cursor[0]))
        cursor[0] = answer.cursor
        return str(answer.skip_reason.skip_message)

    return tick


START = datetime(2025, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
FINE = "candles are fresh and disks have room"
Usage = namedtuple("Usage", "total used free")


def _disk(monkeypatch: pytest.MonkeyPatch, percent: float) -> None:
    # A tenth of the disk is reserved for root.
    usage = Usage(int(1e12), int(9e9 * percent), int(9e9 * (100 - percent)))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def titles(database: Database) -> list[str]:
    return [one.alert.title for one in AlertOutbox(database, []).list()][::-1]


def test_candles_that_grow_old_are_stale_until_new_ones_come(look: Callable[[float], str], database: Database) -> None:
    coverage = Coverage(database)
    coverage.add("exchange:upbit", "KRW-BTC", "1H", START - 9 * HOUR, START)
    coverage.add("exchange:upbit", "KRW-ETH", "1H", START - 9 * HOUR, START - 8 * HOUR)
    coverage.add("exchange:bithumb", "KRW-BTC", "1H", START, START + 90 * HOUR)
    # The newest opened at -60 minutes: three hours and a quarter later is the limit.
    for minutes in (0, 60, 135):
        assert look(minutes) == FINE
    assert look(136) == "1H candles of upbit are stale"
    (one,) = AlertOutbox(database, []).list()
    assert (one.alert.kind, one.alert.severity) == ("stale_data", "error")
    assert "the newest opened 2025-02-28 23:00 UTC" in one.alert.text
    assert one.alert.link == "http://127.0.0.1:3000/assets/candles_1h"
    look(140)
    assert titles(database) == ["1H candles of upbit are stale"]
    coverage.add("exchange:upbit", "KRW-BTC", "1H", START, START + 2 * HOUR)
    assert look(145) == FINE
    assert titles(database)[1:] == ["Resolved: 1H candles of upbit are stale"]


def test_a_history_that_is_fetched_for_the_first_time_is_not_stale(
    look: Callable[[float], str], database: Database
) -> None:
    coverage = Coverage(database)
    assert look(0) == FINE
    coverage.add("exchange:upbit", "KRW-BTC", "1D", START - 9999 * HOUR, START - 7999 * HOUR)
    assert look(1) == FINE
    assert titles(database) == []


def test_a_ledger_that_is_lost_is_stale(look: Callable[[float], str], database: Database) -> None:
    coverage = Coverage(database)
    coverage.add("exchange:upbit", "KRW-BTC", "1D", START - 48 * HOUR, START)
    assert look(0) == FINE
    with database.session() as session:
        session.execute(alert_conditions.sa.text("TRUNCATE catalog.coverage"))
    assert look(1) == "1D candles of upbit are stale"


def test_a_timeframe_that_was_taken_out_is_not_stale(
    look: Callable[[float], str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    Coverage(database).add("exchange:upbit", "KRW-BTC", "1H", START - 9 * HOUR, START)
    look(0)
    assert "stale" in look(500)
    monkeypatch.setenv("COIN_HTS_TIMEFRAMES", "1D")
    forget_settings()
    assert look(501) == FINE
    assert titles(database)[-1] == "Resolved: 1H candles of upbit are stale"
    monkeypatch.setenv("COIN_HTS_TIMEFRAMES", "1D,1H")
    forget_settings()
    assert look(502) == FINE


def test_without_a_live_source_nothing_is_stale(
    look: Callable[[float], str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    Coverage(database).add("exchange:upbit", "KRW-BTC", "1H", START - 9 * HOUR, START)
    look(0)
    assert "stale" in look(500)
    monkeypatch.setenv("COIN_HTS_SOURCE", "sample")
    forget_settings()
    assert look(501) == FINE
    assert titles(database)[-1] == "Resolved: 1H candles of upbit are stale"
    assert look(9999) == FINE


def test_a_disk_that_fills_up(
    look: Callable[[float], str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_settings().backups.mkdir()
    said = {}
    for percent in (79.9, 80.1, 79, 85, 77.9, 81):
        _disk(monkeypatch, percent)
        said[percent] = look(0)
    full = "the disk of the data is {} % full"
    assert said == {79.9: FINE, 80.1: full.format(80), 79: FINE, 85: full.format(85), 77.9: FINE, 81: full.format(81)}
    # The backups lie on the same disk; what is about as full as the limit does not come and go.
    assert titles(database) == [full.format(85), f"Resolved: {full.format(85)}", full.format(81)]
    newest = AlertOutbox(database, []).list()[0].alert
    assert (newest.kind, newest.severity, newest.link) == ("disk_full", "error", "http://127.0.0.1:3000")
    assert "171.0 GB of" in newest.text


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("backups", {"COIN_HTS_BACKUP_STORE": "directory", "COIN_HTS_BACKUP_DIR": "/dev/shm"}),
        (None, {"COIN_HTS_BACKUP_STORE": "s3", "COIN_HTS_BACKUP_DIR": "/dev/shm"}),
        ("exports", {"COIN_HTS_EXPORT_STORE": "directory", "COIN_HTS_EXPORT_DIR": "/dev/shm"}),
        (None, {"COIN_HTS_EXPORT_STORE": "s3", "COIN_HTS_EXPORT_DIR": "/dev/shm"}),
        ("logs", {"COIN_HTS_LOG_DIR": "/dev/shm"}),
    ],
)
def test_folders_on_another_disk_have_an_alert_of_their_own(
    look: Callable[[float], str],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
    variables: dict[str, str],
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    forget_settings()
    assert get_settings().root.stat().st_dev != Path("/dev/shm").stat().st_dev
    _disk(monkeypatch, 90)
    look(0)
    others = [f"the disk of the {name} is 90 % full"] if name else []
    assert titles(database) == ["the disk of the data is 90 % full", *others]
    # Not looked at any more: what is no matter of ours is no alert.
    for variable in variables:
        monkeypatch.delenv(variable)
    forget_settings()
    look(1)
    assert titles(database)[1:] == others + [f"Resolved: {title}" for title in others]


def test_a_cursor_of_conditions_of_an_older_version_is_read(settled: None) -> None:
    answer: Any = alert_sensors.condition_sensor()(dg.build_sensor_context(cursor='["1D"]'))
    assert json.loads(answer.cursor) == {"fresh": [], "full": []}


def test_the_real_disk_has_a_share(settled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert alert_conditions.disk_alerts(get_settings(), []) == ({}, [])  # there is no folder yet
    get_settings().root.mkdir()
    monkeypatch.setenv("COIN_HTS_ALERT_DISK_PERCENT", "0.0001")
    forget_settings()
    alerts, full = alert_conditions.disk_alerts(get_settings(), [])
    assert full == [*alerts] == ["disk data"]
    assert alerts["disk data"] is not None


# ---- backups


def test_a_prune_that_was_killed_is_said(settled: None, database: Database) -> None:
    note = get_settings().root / ".begun" / "one.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps(PRUNE_ALERT))
    with clock.simulated(lambda: START):
        for _ in range(2):
            alert_sensors.backup_sensor()(dg.build_sensor_context())
    assert titles(database) == ["old backups cannot be removed"]
    assert not note.exists()


def test_backups_whose_store_does_not_answer(
    settled: None, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that hangs is waited for, but not for long; once is no alert."""
    hangs, sensor = threading.Event(), alert_sensors.backup_sensor()
    cursor = START.isoformat()  # as an older version left it

    def look(work: Callable[[Any], Any]) -> str:
        nonlocal cursor
        monkeypatch.setattr(alert_conditions, "list_backups", work)
        with clock.simulated(lambda: START):
            answer: Any = sensor(dg.build_sensor_context(cursor=cursor))
        cursor = answer.cursor
        return str(answer.skip_reason.skip_message)

    monkeypatch.setattr(alert_conditions, "_LISTING_SECONDS", 0.05)
    for _ in range(2):
        assert look(lambda _: hangs.wait(60)) == "nothing is known: no answer; it hangs, or the way to it is blocked"
        assert titles(database) == []
        monkeypatch.setattr(alert_conditions, "_LISTING_SECONDS", 60)
        assert look(lambda _: []) == "the backups are young enough"
        monkeypatch.setattr(alert_conditions, "_LISTING_SECONDS", 0.05)
    for said in ("nothing is known", *["the backups cannot be looked at"] * 2):
        assert look(lambda _: hangs.wait(60)).startswith(said)
    hangs.set()
    assert titles(database) == ["the backups cannot be looked at"]
    monkeypatch.setattr(alert_conditions, "_LISTING_SECONDS", 60)
    look(lambda _: [])
    assert titles(database)[1:] == ["Resolved: the backups cannot be looked at"]


# ---- delivery


def test_alerts_arrive(world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    deliver = alert_sensors.delivery_sensor()
    world.fail()
    world.tick()
    assert str(deliver(dg.build_sensor_context()).skip_message) == "log: 1 sent"  # type: ignore[union-attr]
    assert "refresh_candles_1d failed: the process of this run ended http://127.0.0.1:3000/runs/" in caplog.text
    with webhook_server() as hook:
        monkeypatch.setenv("COIN_HTS_SLACK_WEBHOOK_URL", hook.url)
        monkeypatch.setenv("COIN_HTS_ALERT_MOST_PER_HOUR", "2")
        monkeypatch.setenv("COIN_HTS_ALERT_REPEAT_HOURS", "0.000001")
        forget_settings()
        for number in range(3):
            world.fail(tags={"dagster/partition": f"{number}"})
        world.tick()
        assert str(deliver(dg.build_sensor_context()).skip_message) == "slack: 2 sent"  # type: ignore[union-attr]
        first_lines = [text.splitlines()[0] for text in hook.texts]
        assert first_lines == ["*error: refresh_candles_1d failed*", "*error: 2 more alerts*"]


def test_the_sensors_are_on(settled: None) -> None:
    sensors = {sensor.name: sensor for sensor in build_defs().sensors or ()}
    for name in ("deliver_alerts", "watch_failures", "watch_conditions"):
        assert sensors[name].default_status is dg.DefaultSensorStatus.RUNNING
        assert (sensors[name].minimum_interval_seconds or 0) <= 60
