"""Every kind of alert, raised by what it is about, arrives at a real webhook and mail server by a real daemon."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.lake import CandleStore
from coin_hts_pipelines.operations.alerts import KINDS
from coin_hts_pipelines.operations.embedded_postgres import find_server, server_url
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines_tests.candle_maker import random_walk
from coin_hts_pipelines_tests.conftest import Project, make_project
from coin_hts_pipelines_tests.faults.conftest import kill, light
from coin_hts_pipelines_tests.integration.helpers import processes_in, query, wait_until, write_year
from coin_hts_pipelines_tests.mail_server import PASSWORD, USER, Mailbox, Webhook, mail_server, webhook_server

# Sensors tick every 30 to 60 s.
ARRIVED_SECONDS = 180
# What a check says, without a run that would have to find something wrong with candles first.
CHECKS = """
import dagster as dg
from coin_hts_pipelines.control.instance import open_instance, prepare

prepare()
with open_instance() as instance:
    for check, severity in (("no_look_ahead", "ERROR"), ("freshness", "WARN")):
        found = dg.AssetCheckEvaluation(
            dg.AssetKey("candles_1d"), check, False, {}, severity=dg.AssetCheckSeverity[severity], description="so"
        )
        instance.report_runless_asset_event(found)
"""


@dataclass(frozen=True)
class House:
    """A project that says its alerts to two servers."""

    project: Project
    hook: Webhook
    box: Mailbox
    variables: dict[str, str]

    def coin_hts(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.project.coin_hts(*argv, **self.variables)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return self.project.start(*argv, **self.variables)

    def arrived(self) -> tuple[set[str], set[str]]:
        """Kinds, by the runbook each names, of what came to the webhook and by mail."""
        mails = [mail.get_body(("plain",)).get_content() for mail in self.box.mails]  # type: ignore[union-attr]
        posts = [str(request) for request in self.hook.requests]
        return tuple(  # type: ignore[return-value]
            {kind for kind in KINDS if any(f"runbooks/{kind}.md" in text for text in texts)} for texts in (posts, mails)
        )

    def titles(self) -> tuple[list[str], list[str]]:
        """Titles of what came to the webhook and by mail."""
        return [text.splitlines()[0] for text in self.hook.texts], [str(mail["Subject"]) for mail in self.box.mails]

    def until(self, *kinds: str) -> None:
        wanted = set(kinds)
        try:
            wait_until(
                lambda: all(wanted <= found for found in self.arrived()), ARRIVED_SECONDS, f"alerts {kinds}", pause=0.2
            )
        except AssertionError:
            print(self.arrived(), (self.project.home / "data" / "logs" / "coin-hts.jsonl").read_text()[-5000:])
            raise


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    home = Path(tempfile.mkdtemp(prefix="hts-"))
    project = make_project(home)
    try:
        with webhook_server() as hook, mail_server(home) as box:
            variables = {
                "COIN_HTS_SLACK_WEBHOOK_URL": hook.url,
                "COIN_HTS_SMTP_HOST": "127.0.0.1",
                "COIN_HTS_SMTP_PORT": str(box.port),
                "COIN_HTS_SMTP_CA_BUNDLE": str(home / "ca.pem"),
                "COIN_HTS_SMTP_USER": USER,
                "COIN_HTS_SMTP_PASSWORD": PASSWORD,
                "COIN_HTS_ALERT_MAIL_FROM": USER,
                "COIN_HTS_ALERT_MAIL_TO": "ops@host.test",
                "COIN_HTS_ALERT_MOST_PER_HOUR": "9",
                "NO_PROXY": "127.0.0.1",
            }
            yield House(project, hook, box, variables)
    finally:
        for pid in processes_in(home):
            kill(pid)
        project.coin_hts("db", "stop")
        shutil.rmtree(home, ignore_errors=True)


def test_all_kinds_arrive(house: House) -> None:
    done = house.coin_hts("setup")
    assert done.returncode == 0, done.stderr
    watch = house.start("coin-hts", "doctor", "--watch", "1")
    house.until("daemon_down")  # there is none yet
    done = house.coin_hts("alert", "test")
    assert done.returncode == 0, done.stderr
    house.until("test")

    full = {**house.variables, "COIN_HTS_ALERT_DISK_PERCENT": "0.0001"}
    daemon = house.project.start("dagster-daemon", "run", "-w", "workspace.yaml", **full, **_dagster(house.project))
    house.until("disk_full")
    wait_until(lambda: _looked(house.project), ARRIVED_SECONDS, "a tick of watch_failures", pause=0.2)

    project = house.project
    CandleStore(project.data).merge("KRW-BAD", "1D", random_walk(365, 9), source="sample")
    (file,) = (project.data / "KRW-BAD" / "1D").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:1000] + b"\0" * 500)
    server = find_server(project.data / "postgres")
    assert server is not None
    database = Database(server_url(server.socket_dir, server.port), pool_size=1)
    TaskQueue(database).submit(light("KRW-BAD"))  # the command would refuse it
    database.dispose()
    house.until("dead_letter")

    failed = house.coin_hts("backup", "drill")
    assert failed.returncode == 2, "there is no backup, which is nobody's failure"
    drilled = project.run(
        "dagster", "job", "execute", "-m", "coin_hts_pipelines.definitions", "-j", "drill_backup", **_dagster(project)
    )
    assert drilled.returncode != 0
    frame = random_walk(365, 3)
    frame.loc[100, "close"] = float("nan")
    folder = project.home / "given"
    write_year(folder, "KRW-NAN", "1D", frame["timestamp"].iloc[0].year, frame)
    ran = house.coin_hts("run", "--timeframes", "1D", "--source", "files", "--path", str(folder))
    assert ran.returncode == 1, ran.stderr
    assert "candles_1d: 1 partitions failed" in ran.stdout
    shutil.rmtree(project.home / "backups")
    (project.home / "backups").write_text("no folder")
    assert house.coin_hts("backup", "create").returncode == 1
    subprocess.run(
        [sys.executable, "-c", CHECKS], cwd=project.home, env=project.environment(**house.variables), check=True
    )
    # More than nine within the hour: the ninth sums up what there is beside.
    house.until("drill_failed", "run_failure", "backup_failed", "failed_check", "stale_data")

    kill(server.pid)
    house.until("postgres_down")
    daemon.terminate()
    watch.terminate()
    assert set(KINDS) - house.arrived()[0] <= {"many_alerts"}
    assert house.arrived()[0] == house.arrived()[1]
    for titles in house.titles():
        assert len(titles) == len(set(titles)), f"something was said twice: {titles}"
    assert house.box.over_tls == [True] * len(house.box.mails)
    assert all(PASSWORD not in str(request) for request in house.hook.requests)


def _looked(project: Project) -> bool:
    return bool(query(project, "SELECT 1 FROM dagster.job_ticks WHERE tick_body LIKE %s", "%nothing failed%"))


def _dagster(project: Project) -> dict[str, str]:
    """Variables of `.env`, which Dagster's own programs do not read for everything."""
    lines = (project.home / ".env").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name: value.strip("'") for name, value in variables.items()}
