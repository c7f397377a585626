"""`coin-hts doctor`, `status` and `metrics` as a person and as a program calls them."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coin_hts_pipelines.cli import doctor
from coin_hts_pipelines.operations.health import Finding
from coin_hts_pipelines.settings import Settings
from coin_hts_pipelines_tests.conftest import BIN, Project

SECONDS = 120


@pytest.fixture(scope="module")
def ready(project: Project) -> Project:
    """A project with a running, migrated Postgres."""
    done = project.coin_hts("setup")
    assert done.returncode == 0, done.stderr
    return project


@contextmanager
def lines_of(project: Project, *argv: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], Queue[str]]]:
    """Start `coin-hts` and give what it prints, line by line; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [str(BIN / "coin-hts"), *argv],
        cwd=project.home,
        env=project.environment(PYTHONUNBUFFERED="1", **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: Queue[str] = Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process, lines
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=SECONDS)
        reader.join(timeout=SECONDS)


def until(lines: Queue[str], wanted: Callable[[str], bool]) -> str:
    """First line that is wanted; fails when none comes."""
    while True:
        line = lines.get(timeout=SECONDS)
        if wanted(line):
            return line


# ---- doctor


def test_a_stopped_server_fails_and_is_not_started(tmp_path: Path, project: Project) -> None:
    done = project.coin_hts("doctor", "--json", DATA_ROOT=str(tmp_path))
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["postgres"]["state"] == "fail"
    assert "`coin-hts db start` starts it" in found["postgres"]["detail"]
    assert found["settings"]["state"] == "ok"
    assert not (tmp_path / "postgres").exists()


def test_a_table_with_warnings_is_no_failure(ready: Project) -> None:
    done = ready.coin_hts("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    words = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert words["postgres"].split()[1] == "ok"
    assert words["candles"].split()[1] == "warn"
    assert "\x1b" not in done.stdout, "colours are for terminals"


def test_a_variable_that_is_none_is_named(ready: Project) -> None:
    done = ready.coin_hts("doctor", "--json", COIN_HTS_TASK_RUN="3")
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert found["settings"]["state"] == "warn"
    assert "COIN_HTS_TASK_RUN (did you mean COIN_HTS_TASK_RUNS?) is no setting" in found["settings"]["detail"]


@pytest.mark.parametrize("value", ["0", "nan", "inf", "x"])
def test_a_pause_that_is_none(ready: Project, value: str) -> None:
    done = ready.coin_hts("doctor", f"--watch={value}")
    assert done.returncode == 2
    assert "--watch" in done.stderr
    assert "Traceback" not in done.stderr


class _Slack(BaseHTTPRequestHandler):
    received: Queue[str]

    def do_POST(self) -> None:
        self.received.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def slack() -> Iterator[tuple[str, Queue[str]]]:
    """A webhook on loopback, and what it got."""
    received: Queue[str] = Queue()
    handler = type("Handler", (_Slack,), {"received": received})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", received
    server.shutdown()
    server.server_close()
    thread.join()


def test_watching_says_what_changes_and_alerts(ready: Project, slack: tuple[str, Queue[str]]) -> None:
    url, received = slack
    with lines_of(ready, "doctor", "--watch", "1", COIN_HTS_SLACK_WEBHOOK_URL=url) as (process, lines):
        assert "postgres: ok" in until(lines, lambda line: "postgres" in line)
        assert "daemon is" not in until(lines, lambda line: "daemon: warn" in line)
        assert "the daemon of Dagster is down" in received.get(timeout=SECONDS)
        assert ready.coin_hts("db", "stop").returncode == 0
        assert "postgres: ok -> fail" in until(lines, lambda line: "postgres" in line)
        assert "Postgres is down" in received.get(timeout=SECONDS)
        assert ready.coin_hts("db", "start").returncode == 0
        assert "postgres: fail -> ok" in until(lines, lambda line: "postgres" in line)
        assert "Postgres is back" in received.get(timeout=SECONDS)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=SECONDS) == 0
        assert received.empty()


def test_who_watches_goes_on_when_it_cannot_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = iter([OSError("no process left, password=planted"), [Finding("postgres", "ok", "18")], KeyboardInterrupt()])

    def look(_: Settings) -> list[Finding]:
        found = next(looks)
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(doctor, "_look", look)
    monkeypatch.setattr(doctor.time, "sleep", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        doctor._watch(Settings(), 1, as_json=False)
    printed = capsys.readouterr().out
    assert "doctor: fail  could not look: no process left, password=***" in printed
    assert "postgres: ok" in printed


# ---- status


def test_status_of_a_fresh_project(ready: Project) -> None:
    done = ready.coin_hts("status", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["postgres"] is None
    assert found["runs"] == {"success": 0, "failure": 0, "canceled": 0, "queued": 0, "running": 0}
    assert found["candles"] == {}
    shown = ready.coin_hts("status")
    assert shown.returncode == 0
    for text in ("none stored yet", "was never started", "0 success", "there is none; `coin-hts backup create`"):
        assert text in shown.stdout


def test_status_when_nothing_answers(ready: Project) -> None:
    done = ready.coin_hts("status", COIN_HTS_DATABASE_URL="postgresql://u:hush@127.0.0.1:1/x")
    assert done.returncode == 0
    assert "cannot be reached" in done.stdout
    assert "hush" not in done.stdout + done.stderr


def test_status_after_a_run(ready: Project) -> None:
    argv = ("--symbols", "KRW-BTC", "--timeframes", "1D", "--start", "2025-01-01", "--end", "2025-12-31")
    done = ready.coin_hts("run", *argv)
    assert done.returncode == 0, done.stderr
    found = json.loads(ready.coin_hts("status", "--json").stdout)
    assert found["candles"]["1D"]["added"] == 365
    assert found["runs"]["success"] >= 5
    assert found["best"]["1D"]["symbol"] == "KRW-BTC"
    shown = ready.coin_hts("status").stdout
    assert "365 added, newest opened" in shown
    assert "KRW-BTC by volume_" in shown
    assert "Synthetic candles" in shown


# ---- metrics


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_metrics_are_served_until_a_signal(ready: Project, number: signal.Signals) -> None:
    with lines_of(ready, "metrics", "--port", "0") as (process, lines):
        line = until(lines, lambda line: "http://" in line)
        assert line.startswith("figures on http://127.0.0.1:")
        with urllib.request.urlopen(line.split()[2], timeout=SECONDS) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
        assert families["coin_hts_postgres_up"].samples[0].value == 1
        process.send_signal(number)
        assert process.wait(timeout=SECONDS) == 0
        assert lines.empty()


def test_a_hanging_scrape_does_not_keep_the_server(ready: Project, tmp_path: Path) -> None:
    import socket

    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        url = f"postgresql://u:hush@127.0.0.1:{hole.getsockname()[1]}/x"
        with lines_of(ready, "metrics", "--port", "0", COIN_HTS_DATABASE_URL=url) as (process, lines):
            address = until(lines, lambda line: "http://" in line).split()[2]
            with urllib.request.urlopen(address, timeout=SECONDS) as answer:
                assert "coin_hts_postgres_up 0.0" in answer.read().decode()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=SECONDS) == 0


def test_opening_it_says_what_that_means(ready: Project) -> None:
    with lines_of(ready, "metrics", "--port", "0", "--host", "0.0.0.0") as (process, lines):
        assert "0.0.0.0 is open to other machines" in until(lines, lambda line: "warning" in line)
        until(lines, lambda line: "http://" in line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=SECONDS) == 0


def test_a_port_that_is_taken(ready: Project, slack: tuple[str, Queue[str]]) -> None:
    port = slack[0].split(":")[2].split("/")[0]
    done = ready.coin_hts("metrics", "--port", port)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
