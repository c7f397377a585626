"""What the doctor finds on the Dagster instance, with everything alive and with everything dead, and who is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo

from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.catalog import Database, Preset
from coin_hts_pipelines.catalog.database import HEAD_REVISION, dagster_url
from coin_hts_pipelines.control import health
from coin_hts_pipelines.control.code_location import CodeLocation
from coin_hts_pipelines.control.health import Watch, check_postgres, examine, max_runtime, why_stuck
from coin_hts_pipelines.control.presets import register_preset, unregister_preset
from coin_hts_pipelines.control.run_owners import OWNER_TAG
from coin_hts_pipelines.control.status import OpenRun
from coin_hts_pipelines.errors import TransientError
from coin_hts_pipelines.operations.alerts import Alert
from coin_hts_pipelines.operations.health import Finding, guarded
from coin_hts_pipelines.operations.processes import process_token
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines.tasks import TaskQueue
from coin_hts_pipelines_tests.catalog.conftest import new_database
from coin_hts_pipelines_tests.conftest import CHECKOUT
from coin_hts_pipelines_tests.tasks.task_maker import request

__all__ = ["new_database"]

FAR = 120.0


class Loaded(CodeLocation):
    """A code location that was found to load."""

    def __init__(self) -> None:
        """Start nothing."""

    def finding(self, until: float) -> Finding:
        return Finding("code location", "ok", "loads")

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture
def database(new_database: Callable[[], str]) -> Iterator[Database]:
    made = Database(new_database(), pool_size=1)
    yield made
    made.dispose()


@pytest.fixture
def settings(tmp_path: Path, database: Database) -> Settings:
    (tmp_path / "dagster.yaml").write_text((CHECKOUT / "dagster.yaml").read_text())
    url = database.url.render_as_string(hide_password=False)
    return Settings(home=tmp_path, dagster_home=tmp_path, database_url=url)


@pytest.fixture
def instance(database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    database.upgrade()
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", dagster_url(database.url.render_as_string(hide_password=False)))
    monkeypatch.setenv("DAGSTER_HOME", str(settings.home))
    monkeypatch.setenv("COIN_HTS_DAGSTER_STORAGE", str(settings.home))
    with dg.DagsterInstance.from_config(str(settings.home)) as made:
        yield made


@dg.job
def nothing() -> None:
    """Does nothing."""


def found(settings: Settings) -> dict[str, tuple[str, str]]:
    return {one.name: (one.state, one.detail) for one in check_postgres(settings)[0]}


# ---- Postgres and Dagster's tables


def test_a_fresh_database(settings: Settings, database: Database) -> None:
    told = found(settings)
    assert {name: state for name, (state, _) in told.items()} == {
        "postgres": "warn", "dagster": "warn", "daemon": "warn", "runs": "ok", "queue": "ok",
    }  # fmt: skip
    assert f"catalog revision none; `coin-hts setup` migrates to {HEAD_REVISION}" in told["postgres"][1]
    assert "statement_timeout" not in told["postgres"][1]
    assert "`make up` starts it" in told["daemon"][1]


def test_an_instance_in_order(settings: Settings, instance: dg.DagsterInstance) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "id", []))
    told = found(settings)
    assert {state for state, _ in told.values()} == {"ok"}
    assert f"catalog revision {HEAD_REVISION}" in told["postgres"][1]
    assert dg.__version__ in told["dagster"][1]
    assert type(instance.run_storage).__name__ in told["dagster"][1]


def test_a_database_of_a_newer_version(settings: Settings, instance: dg.DagsterInstance, database: Database) -> None:
    with database.session() as session:
        session.execute(sa.text("UPDATE catalog.alembic_version SET version_num = '9999'"))
    state, text = found(settings)["postgres"]
    assert state == "fail"
    assert "revision 9999, of a newer version" in text


def test_without_dagster_yaml(settings: Settings, instance: dg.DagsterInstance) -> None:
    (settings.home / "dagster.yaml").unlink()
    assert found(settings)["dagster"] == (
        "fail", f"there is no dagster.yaml in {settings.home}; set DAGSTER_HOME",
    )  # fmt: skip


def test_the_daemon(settings: Settings, instance: dg.DagsterInstance) -> None:
    def beat(age: float, error: str | None = None) -> dict[str, tuple[str, str]]:
        errors = [SerializableErrorInfo(error, [], None)] if error else []
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - age, "SENSOR", "id", errors))
        return found(settings)

    assert beat(600)["daemon"] == ("warn", "last heartbeat 10 min ago; `make up` starts it")
    assert beat(0)["daemon"][0] == "ok"
    broken = beat(0, "it broke\nat line 3")
    assert broken["ticks"] == ("warn", "it broke")
    assert broken["daemon"][0] == "ok", "one tick that failed is no daemon that is down"


def test_a_daemon_whose_ticks_all_fail(settings: Settings, instance: dg.DagsterInstance) -> None:
    def tick(status: TickStatus, seconds_ago: float = 0) -> str:
        at = time.time() - seconds_ago
        error = SerializableErrorInfo("gone", [], None) if status is TickStatus.FAILURE else None
        instance.create_tick(
            TickData("origin", "sensor", InstigatorType.SENSOR, status, at, run_ids=[], error=error, selector_id="s")
        )
        return found(settings)["daemon"][0]

    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "id", []))
    assert tick(TickStatus.FAILURE, 3600) == "ok", "long ago"
    assert tick(TickStatus.FAILURE) == "fail"
    assert tick(TickStatus.STARTED) == "fail"
    assert "the last 2 ticks all failed" in (tick(TickStatus.FAILURE), found(settings)["daemon"][1])[1]
    assert tick(TickStatus.SUCCESS, 3600) == "fail", "long ago"
    assert tick(TickStatus.SKIPPED) == "ok"


def test_tasks_and_dead_letters(settings: Settings, instance: dg.DagsterInstance, database: Database) -> None:
    TaskQueue(database).submit(request())
    assert found(settings)["queue"] == ("ok", "1 tasks waiting, 0 running, 0 dead letters")
    with database.session() as session:
        session.execute(
            sa.text(
                "INSERT INTO catalog.dead_letters (task_id, request, attempts, error, error_class, error_kind, died_at)"
                " VALUES ('t1', '{}', 1, 'no candles', 'NoCandles', 'permanent', now())"
            )
        )
    assert found(settings)["queue"] == (
        "warn", "1 tasks waiting, 0 running, 1 dead letters; see `coin-hts task dead list`",
    )  # fmt: skip


def test_a_run_without_its_process_is_stuck(
    settings: Settings, instance: dg.DagsterInstance, database: Database
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    ids = []
    for token in (process_token(process.pid), process_token(os.getpid())):
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        instance.add_run_tags(run.run_id, {OWNER_TAG: f"{token}/{run.run_id}"})
        ids.append(run.run_id)
    queued = instance.create_run_for_job(nothing)
    with database.session() as session:
        session.execute(sa.text("UPDATE dagster.runs SET status = 'QUEUED' WHERE run_id = :id"), {"id": queued.run_id})
    assert found(settings)["runs"] == ("ok", "2 running, 1 queued")
    process.communicate(timeout=60)
    assert found(settings)["runs"] == ("warn", f"2 running, 1 queued; stuck: {ids[0]} (its process is gone)")


@pytest.mark.parametrize(
    ("status", "created", "started", "owner", "reason"),
    [
        ("QUEUED", 3599, None, None, None),
        ("QUEUED", 3601, None, None, "queued for 60 min"),
        ("STARTED", 9999, 100, None, None),
        ("STARTED", 9999, 101, None, "under way for 101 s"),
        ("STARTING", 99, None, None, None),
        ("STARTING", 101, None, None, "under way for 101 s"),
        ("STARTED", 50, 50, "elsewhere/1/1/r", None),
        ("STARTED", 50, 50, "{here}/999999999/1/r", "its process is gone"),
        ("STARTED", 50, 50, "{here}/999999999/1/another", None),  # tags of the run it is a retry of
    ],
)
def test_what_is_stuck(
    status: str, created: float, started: float | None, owner: str | None, reason: str | None
) -> None:
    token = owner.format(here=socket.gethostname()) if owner else None
    assert why_stuck(OpenRun("r", status, created, started, token), 100) == reason


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("run_monitoring: {max_runtime_seconds: 77}", 77),
        ("run_monitoring: {}", 21_600),
        ("run_monitoring: {max_runtime_seconds: {env: X}}", 21_600),
        ("", 21_600),
        ("{", 21_600),
        (None, 21_600),
    ],
)
def test_the_limit_of_dagster_yaml(tmp_path: Path, text: str | None, seconds: float) -> None:
    if text is not None:
        (tmp_path / "dagster.yaml").write_text(text)
    assert max_runtime(Settings(home=tmp_path, dagster_home=tmp_path)) == seconds


# ---- all together


def test_everything_is_looked_at(settings: Settings, instance: dg.DagsterInstance) -> None:
    findings = examine(settings, Loaded(), started=time.monotonic() + FAR)
    assert {one.name: one.state for one in findings} == {
        "settings": "ok", "data root": "ok", "backups folder": "ok", "logs folder": "ok", "postgres": "ok",
        "dagster": "ok", "daemon": "warn", "runs": "ok", "queue": "ok", "candles": "warn", "strategies": "ok",
        "code location": "ok", "export store": "ok", "backups": "warn",
    }  # fmt: skip


@pytest.fixture
def blackhole() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield listener.getsockname()[1]


def test_nothing_that_hangs_holds_up_the_rest(tmp_path: Path, blackhole: int) -> None:
    settings = Settings(
        home=tmp_path,
        database_url=f"postgresql://u:hush@127.0.0.1:{blackhole}/x",
        export_store="s3",
        s3_bucket="b",
        s3_endpoint_url=f"http://127.0.0.1:{blackhole}",
        s3_access_key_id="somebody",
        s3_secret_access_key="hush",
        source="exchange:upbit",
        exchange_url=f"http://127.0.0.1:{blackhole}",
    )
    told = {one.name: one for one in examine(settings, Loaded(), started=time.monotonic() - 2.2)}
    for name in ("postgres", "export store", "exchange"):
        assert told[name].state == ("warn" if name == "exchange" else "fail")
        assert told[name].detail.startswith("no answer")
    assert told["strategies"].state == "ok"
    assert told["data root"].state == "ok"
    assert "daemon" not in told, "nothing is known of it"
    assert "hush" not in str(told)


def test_the_exchange_is_asked_only_when_it_is_the_source(settings: Settings, blackhole: int) -> None:
    source = settings.model_copy(update={"source": "files", "exchange_url": f"http://127.0.0.1:{blackhole}"})
    findings = examine(source, Loaded(), started=time.monotonic() + FAR)
    assert "exchange" not in {one.name for one in findings}


# ---- the code location


def test_the_code_loads() -> None:
    with CodeLocation(Settings()) as code:
        finding = code.finding(time.monotonic() + FAR)
    assert finding.state == "ok"
    assert finding.detail.startswith("loads, ")
    assert int(finding.detail.split()[1]) > 10


@pytest.mark.parametrize(
    ("program", "wait", "state", "told"),
    [
        ("raise ImportError('no such strategy')", FAR, "fail", "ImportError: no such strategy"),
        ("raise SystemExit(3)", FAR, "fail", "it does not load"),
        ("import time; time.sleep(600)", 0.0, "warn", "did not load in time"),
    ],
)
def test_code_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, program: str, wait: float, state: str, told: str
) -> None:
    monkeypatch.setattr(CodeLocation, "_PROGRAM", program)
    with CodeLocation(Settings()) as code:
        finding = code.finding(time.monotonic() + wait)
        assert code._process.poll() is not None, "nothing is left behind"
    assert finding.state == state
    assert told in finding.detail


# ---- who is told


class Sink:
    """Takes alerts, or does not."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []
        self.works = True

    def __call__(self, alert: Alert) -> bool:
        if self.works:
            self.sent.append((alert.kind, alert.title, alert.severity))
        return self.works


def state_of(name: str, state: str) -> Finding:
    return Finding(name, state, "because")


DOWN, BACK = ("postgres_down", "Postgres is down", "error"), ("postgres_down", "Postgres is back", "info")


def test_only_changes_are_said() -> None:
    watch = Watch(Sink(), 100, "http://ui")
    both = [state_of("postgres", "ok"), state_of("candles", "warn")]
    assert watch.look(both, 0) == [(None, both[0]), (None, both[1])]
    assert watch.look(both, 1) == []
    worse = [state_of("postgres", "ok"), state_of("candles", "fail")]
    assert watch.look(worse, 2) == [("warn", worse[1])]
    assert watch.look(worse[:1], 3) == []
    assert watch.look(worse, 4) == [], "what was not looked at is as it was"


@pytest.mark.parametrize(
    ("name", "states", "sent"),
    [
        ("postgres", ["ok", "warn", "ok"], []),
        ("postgres", ["ok", "fail", "fail", "ok", "ok"], [DOWN, BACK]),
        ("postgres", ["ok", "fail", "ok", "fail", "ok"], []),
        ("postgres", ["fail", "fail"], [DOWN]),
        ("daemon", ["ok", "warn", "warn"], [("daemon_down", "the daemon of Dagster is down", "error")]),
        ("daemon", ["fail", "warn"], [("daemon_down", "the daemon of Dagster is down", "error")]),
        ("ticks", ["warn", "warn"], []),
        ("candles", ["fail", "fail"], []),
    ],
)
def test_who_is_down_is_told_once(name: str, states: list[str], sent: list[tuple[str, str, str]]) -> None:
    sink = Sink()
    watch = Watch(sink, 100, "http://ui")
    for at, state in enumerate(states):
        watch.look([state_of(name, state)], at)
    assert sink.sent == sent


def test_what_lasts_is_told_again() -> None:
    sink = Sink()
    watch = Watch(sink, 100, "http://ui")
    for at in (-1, 0, 1, 99, 100, 150, 199, 200):
        watch.look([state_of("postgres", "fail")], at)
    assert sink.sent == [DOWN] * 3


def test_no_more_than_so_many_are_sent_in_an_hour() -> None:
    sink = Sink()
    watch = Watch(sink, 100, "http://ui", most_per_hour=3)
    for at in range(0, 3600, 300):
        for state in ("fail", "fail", "ok"):
            watch.look([state_of("postgres", state)], at)
    assert sink.sent == [DOWN, BACK, DOWN]
    watch.look([state_of("postgres", "ok")], 3600)
    assert sink.sent == [DOWN, BACK, DOWN, BACK], "what was kept back is sent when there is room"


def test_what_did_not_arrive_is_sent_the_next_time() -> None:
    sink = Sink()
    watch = Watch(sink, 100, "http://ui")
    watch.look([state_of("postgres", "fail")], 0)
    sink.works = False
    watch.look([state_of("postgres", "fail")], 0)
    sink.works = True
    watch.look([state_of("postgres", "fail")], 1)
    sink.works = False
    watch.look([state_of("postgres", "ok")], 2)
    sink.works = True
    watch.look([state_of("postgres", "ok")], 3)
    watch.look([state_of("postgres", "ok")], 4)
    assert sink.sent == [DOWN, BACK]


def test_an_alert_without_a_receiver_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alert = Alert("postgres_down", "Postgres is down", "no answer", None, "error")
    assert health.send_alert(Settings(home=tmp_path), alert)
    assert "Postgres is down: no answer" in caplog.text


def test_a_check_of_a_dead_postgres_says_so(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url="postgresql://u:hush@127.0.0.1:1/x")
    with pytest.raises(TransientError, match=r"u:\*\*\*@127.0.0.1:1"):
        check_postgres(settings)
    assert guarded("postgres", lambda: check_postgres(settings)[0][0]).state == "fail"


# ---- presets


def test_a_preset_is_a_partition(tmp_path: Path) -> None:
    preset = Preset("swing_1h", BacktestRequest("volume_long_candle", timeframe="1H"))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for _ in range(2):
            register_preset(instance, preset)
            assert list(instance.get_dynamic_partitions("presets_1h")) == ["swing_1h"]
        unregister_preset(instance, preset)
        assert list(instance.get_dynamic_partitions("presets_1h")) == []


def test_no_finding_tells_a_secret(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, database_url="postgresql://u@127.0.0.1:1/x?password=hush-hush-1&sslpassword=hush2"
    )
    findings = examine(settings, Loaded(), started=time.monotonic() + FAR)
    assert "127.0.0.1" in str(findings)
    assert "hush" not in str(findings)
