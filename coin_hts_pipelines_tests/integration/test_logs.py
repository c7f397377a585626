"""One log of a whole house at work, and secrets that appear nowhere: real commands, servers, a real Postgres."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coin_hts_pipelines.operations.embedded_postgres import find_server
from coin_hts_pipelines_tests.conftest import BIN, Project
from coin_hts_pipelines_tests.integration.helpers import processes_in, query, wait_until

PLANTED = {
    "postgres": "planted-postgres-word",
    "key": "PLANTEDKEYID0000",
    "secret": "planted/s3+secret",
    "hook": "T0PLANT/B0PLANT/planted-hook",
    "mail": "planted-mail-word",
}
RUN = ("run", "--symbols", "KRW-BTC", "--timeframes", "1D", "--start", "2024-01-01", "--end", "2024-12-31")


@dataclass(frozen=True)
class House:
    """A project whose settings are full of secrets; nobody listens where its object store should be."""

    project: Project
    variables: dict[str, str]

    def coin_hts(self, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.project.coin_hts(*argv, **{**self.variables, **variables})

    def log(self) -> list[dict[str, Any]]:
        path = self.project.data / "logs" / "coin-hts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def house(project: Project) -> House:
    assert project.coin_hts("setup").returncode == 0
    query(project, f"CREATE ROLE keeper SUPERUSER LOGIN PASSWORD '{PLANTED['postgres']}'; SELECT 1")
    rules = project.data / "postgres" / "pg_hba.conf"
    rules.write_text(f"local all keeper scram-sha-256\n{rules.read_text()}")
    query(project, "SELECT pg_reload_conf()")
    server = find_server(project.data / "postgres")
    assert server is not None
    place = f"postgres?host={server.socket_dir}&port={server.port}"
    return House(
        project,
        {
            "COIN_HTS_DATABASE_URL": f"postgresql://keeper:{PLANTED['postgres']}@/{place}",
            "COIN_HTS_EXPORT_STORE": "s3",
            "COIN_HTS_S3_BUCKET": "bucket",
            "COIN_HTS_S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
            "AWS_ACCESS_KEY_ID": PLANTED["key"],
            "AWS_SECRET_ACCESS_KEY": PLANTED["secret"],
            "SLACK_WEBHOOK_URL": f"https://hooks.slack.com/services/{PLANTED['hook']}",
            "SMTP_PASSWORD": PLANTED["mail"],
        },
    )


def leaks(text: str) -> list[str]:
    forms = {**PLANTED, "quoted secret": PLANTED["secret"].replace("/", "%2F").replace("+", "%2B")}
    return [name for name, secret in forms.items() if secret in text]


def everything(house: House) -> Iterator[tuple[str, str]]:
    """All that Dagster stored, and every text file of the data folder but the servers' own."""
    tables = query(house.project, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'dagster'")
    for (table,) in tables:
        rows = query(house.project, f'SELECT t::text FROM dagster."{table}" t')
        yield f"table {table}", "\n".join(row for (row,) in rows)
    for path in house.project.data.rglob("*"):
        if path.is_file() and "postgres" not in path.relative_to(house.project.data).parts:
            yield str(path), path.read_bytes().decode(errors="replace")


def test_commands_that_fail_tell_no_secret(house: House) -> None:
    wrong = house.variables["COIN_HTS_DATABASE_URL"].replace(PLANTED["postgres"], f"not-{PLANTED['postgres']}")
    done = {
        "wrong password": house.coin_hts("preset", "list", COIN_HTS_DATABASE_URL=wrong, COIN_HTS_LOG_LEVEL="DEBUG"),
        "no such store": house.coin_hts(*RUN, COIN_HTS_LOG_LEVEL="DEBUG"),
        "bad setting": house.coin_hts("preset", "list", COIN_HTS_PORT="0"),
        "bad request": house.coin_hts("task", "show", house.variables["SLACK_WEBHOOK_URL"]),
    }
    assert {what: one.returncode for what, one in done.items()} == {
        "wrong password": 1,
        "no such store": 1,
        "bad setting": 2,
        "bad request": 2,
    }
    assert "password authentication failed" in done["wrong password"].stderr
    assert "exports_1d" in done["no such store"].stdout
    texts = [(what, one.stdout + one.stderr) for what, one in done.items()]
    found = [(what, leak) for what, text in (*texts, *everything(house)) for leak in leaks(text)]
    assert found == []


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (("doctor",), 1),
        (("doctor", "--json"), 1),
        (("status",), 0),
        (("status", "--json"), 0),
        (("alert", "list", "--json"), 0),
        (("backup", "create"), 0),
        (("backup", "verify"), 0),
        (("storage", "usage"), 0),
        (("storage", "bootstrap"), 1),
        (("readiness", "--check"), 1),
    ],
)
def test_what_an_operator_asks_tells_no_secret(house: House, argv: tuple[str, ...], status: int) -> None:
    done = house.coin_hts(*argv, COIN_HTS_LOG_LEVEL="DEBUG")
    assert done.returncode == status, done.stderr
    assert leaks(done.stdout + done.stderr) == []
    assert [(what, leak) for what, text in everything(house) for leak in leaks(text)] == []


def test_the_log_of_a_run_by_hand(house: House) -> None:
    of_runs = [line for line in house.log() if "run" in line]
    runs = {run_id for (run_id,) in query(house.project, "SELECT run_id FROM dagster.runs")}
    assert {line["run"] for line in of_runs} == runs
    done = [line for line in of_runs if line.get("event_type") == "STEP_SUCCESS"]
    assert {"candles_1d", "indicators_1d", "backtests_1d"} <= {line["step"] for line in done}
    assert all(line["duration"] > 0 and line["level"] == "info" for line in done)
    made = {line["partition"] for line in of_runs if line.get("event_type") == "ASSET_MATERIALIZATION"}
    assert "KRW-BTC|2024" in made
    failed = [line for line in of_runs if line.get("event_type") == "STEP_FAILURE"]
    assert {line["step"] for line in failed} == {"exports_1d"}
    assert all("exception" in line and line["level"] == "error" for line in failed)
    assert {line["process"] for line in of_runs} == {"cli"}


def test_the_log_of_the_servers(house: House, tmp_path: Path) -> None:
    """`coin-hts up`, and a task that a run worker does."""
    port, output = free_port(), tmp_path / "output"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [str(BIN / "coin-hts"), "up", "--port", str(port)],
            cwd=house.project.home,
            env=house.project.environment(**{**house.variables, "COIN_HTS_EXPORT_STORE": "directory"}),
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: {"webserver", "daemon", "code-server"} <= kinds(house).keys(), 120, "servers in the log", 0.5
        )
        submitted = house.coin_hts(
            *("task", "submit", "--strategy", "volume_zone_breakout", "--symbols", "KRW-BTC", "--json")
        )
        assert submitted.returncode == 0, submitted.stderr
        wait_until(lambda: "run" in kinds(house), 120, "a run worker in the log", 0.5)
        wait_until(
            lambda: any(line.get("event_type") == "PIPELINE_SUCCESS" for line in kinds(house)["run"]),
            120,
            "its end",
            0.5,
        )
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        finally:
            for pid in processes_in(house.project.home):
                os.kill(pid, signal.SIGKILL)
    by_kind = kinds(house)
    assert any(line["logger"].startswith("dagster.daemon") for line in by_kind["daemon"])
    assert any("Serving" in line["message"] for line in by_kind["webserver"])
    assert all(line["timestamp"].endswith("+00:00") for lines in by_kind.values() for line in lines)
    worker = [line for line in by_kind["run"] if line.get("event_type") == "STEP_SUCCESS"]
    assert {line["step"] for line in worker} == {"backtest_task"}
    assert all(line["run"] for line in worker)
    # Each line once, though Dagster repeats records for its console.
    ends = [line["run"] for line in by_kind["run"] if line.get("event_type") == "PIPELINE_SUCCESS"]
    assert len(ends) == len(set(ends))
    assert list((house.project.data / "dagster").rglob("*.err")), "no compute logs to look at"
    texts = [("standard output", output.read_text()), *everything(house)]
    assert [(what, leak) for what, text in texts for leak in leaks(text)] == []
    assert "Serving" in texts[0][1]


def kinds(house: House) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for line in house.log():
        found[line["process"]].append(line)
    return dict(found)


def test_a_log_that_cannot_be_written_ends_no_command(house: House) -> None:
    folder = house.project.data / "logs"
    aside = folder.rename(folder.with_name("logs-aside"))
    folder.write_text("a file where the folder should be")
    try:
        done = house.coin_hts(*RUN, COIN_HTS_EXPORT_STORE="directory")
    finally:
        folder.unlink()
        aside.rename(folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be written") == 1
    assert "volume_zone_breakout_1d" in done.stdout
    shutil.rmtree(house.project.data / "exports")
