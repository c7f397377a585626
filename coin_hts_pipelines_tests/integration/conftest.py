"""The automation at work: an instance with `coin-hts up` in which one candle partition was changed by hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from coin_hts_pipelines_tests.conftest import BIN, Project, make_project
from coin_hts_pipelines_tests.integration.helpers import (
    FileState,
    files_under,
    last_event,
    processes_in,
    query,
    wait_until,
)

SYMBOLS, CHANGED, YEAR = ("KRW-BTC", "KRW-ETH", "KRW-XRP"), "KRW-ETH", 2024
START_SECONDS = 90


@dataclass(frozen=True)
class Automation:
    """`coin-hts up` on a project in which one candle partition was changed by hand."""

    project: Project
    process: subprocess.Popen[bytes]
    exports: dict[str, FileState]
    event: int


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    url = f"http://127.0.0.1:{port}/server_info"
    with suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url, timeout=5) as answer:
        return "dagster_webserver_version" in json.load(answer)
    return False


@pytest.fixture(scope="module")
def automation() -> Iterator[Automation]:
    """Export three symbols, start the UI and the daemon, and lengthen the candles of one symbol by Dagster's CLI."""
    home = Path(tempfile.mkdtemp(prefix="hts-"))
    project = make_project(home)
    started: list[subprocess.Popen[bytes]] = []
    try:
        argv = ("--symbols", ",".join(SYMBOLS), "--timeframes", "1D", "--start", f"{YEAR}-01-01")
        done = project.coin_hts("run", *argv, "--end", f"{YEAR}-10-31")
        assert done.returncode == 0, done.stdout + done.stderr
        port, log = _free_port(), home / "up.log"
        # A background job of a shell has SIGINT ignored and hands that down.
        kept = signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [BIN / "coin-hts", "up", "--port", str(port)],
                cwd=home,
                env=project.environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        signal.signal(signal.SIGINT, kept)
        started.append(process)
        wait_until(lambda: process.poll() is not None or _answers(port), START_SECONDS, "the web server's answer")
        assert process.poll() is None, log.read_text()
        # What was there before the first evaluation is nobody's change.
        looked = "SELECT 1 FROM dagster.asset_daemon_asset_evaluations LIMIT 1"
        wait_until(lambda: query(project, looked), START_SECONDS, "the first look of the automation", pause=0.5)

        exports, event = files_under(project.data, "exports/backtests/**/*"), last_event(project)
        config = {"source": "sample", "start": f"{YEAR}-01-01", "end": f"{YEAR}-12-31"}
        changed = project.run(
            "dagster", "asset", "materialize", "-m", "coin_hts_pipelines.definitions", "--select", "candles_1d",
            "--partition", f"{CHANGED}|{YEAR}",
            "--config-json", json.dumps({"ops": {"candles_1d": {"config": config}}}),
        )  # fmt: skip
        assert changed.returncode == 0, changed.stderr
        yield Automation(project, process, exports, event)
    finally:
        for pid in [*(one.pid for one in started if one.poll() is None), *processes_in(home)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for one in started:
            one.wait()
        project.coin_hts("db", "stop")
        shutil.rmtree(home, ignore_errors=True)
