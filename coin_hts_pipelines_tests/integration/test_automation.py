"""With `coin-hts up` running, one changed candle partition ends in fresh exports of its symbol with no further hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest

from coin_hts_pipelines_tests.conftest import BIN, Project
from coin_hts_pipelines_tests.integration.helpers import (
    STRATEGIES,
    assert_exported,
    files_under,
    last_event,
    materialized,
    processes_in,
    query,
    run_statuses,
    wait_until,
)

SYMBOLS = ("KRW-BTC", "KRW-ETH", "KRW-XRP")
CHANGED = "KRW-ETH"
PRESETS = {f"{name}_1d" for name in STRATEGIES}
START_SECONDS, FLOW_SECONDS = 90, 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`coin-hts up` on a project with finished exports of three symbols; its process and its address."""
    done = project.coin_hts(
        "run", "--symbols", ",".join(SYMBOLS), "--timeframes", "1D", "--start", "2024-01-01", "--end", "2024-10-31"
    )
    assert done.returncode == 0, done.stdout
    port, log = free_port(), tmp_path_factory.mktemp("up") / "log"
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [BIN / "coin-hts", "up", "--port", str(port)],
            cwd=project.home,
            env=project.environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    signal.signal(signal.SIGINT, kept)
    try:
        wait_until(lambda: process.poll() is not None or answers(port), START_SECONDS, "no answer of the web server")
        assert process.poll() is None, log.read_text()
        yield process, f"http://127.0.0.1:{port}"
    finally:
        for pid in [process.pid, *processes_in(project.home)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    with (
        suppress(urllib.error.URLError, ConnectionError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5) as answer,
    ):
        return "dagster_webserver_version" in json.load(answer)
    return False


def exported_of(project: Project, symbol: str) -> dict[str, tuple[int, int]]:
    return files_under(project.data, f"exports/backtests/1D/*/{symbol}/*")


def test_a_changed_candle_flows_down_to_the_exports(
    project: Project, server: tuple[subprocess.Popen[bytes], str]
) -> None:
    wait_until(
        # What was there before the first evaluation is nobody's change.
        lambda: query(project, "SELECT 1 FROM dagster.asset_daemon_asset_evaluations LIMIT 1"),
        START_SECONDS,
        "the automation sensor never looked",
        pause=0.5,
    )
    untouched = {symbol: exported_of(project, symbol) for symbol in SYMBOLS if symbol != CHANGED}
    old, before = exported_of(project, CHANGED), last_event(project)
    assert len(old) == 5 * len(PRESETS)
    config = {"ops": {"candles_1d": {"config": {"source": "sample", "start": "2024-01-01", "end": "2024-12-31"}}}}
    done = project.run(
        "dagster", "asset", "materialize", "-m", "coin_hts_pipelines.definitions", "--select", "candles_1d",
        "--partition", f"{CHANGED}|2024", "--config-json", json.dumps(config),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert materialized(project, "candles_1d", before) == {f"{CHANGED}|2024"}

    pairs = {f"{preset}|{CHANGED}" for preset in PRESETS}
    expected = {
        "indicators_1d": {f"{CHANGED}|2024"},
        "backtests_1d": pairs,
        "rankings_1d": PRESETS,
        "exports_1d": pairs,
    }

    def settled() -> bool:
        statuses = set(run_statuses(project).values())
        assert "FAILURE" not in statuses
        found = {asset: materialized(project, asset, before) for asset in expected}
        # The year after the changed one looks back into it, and has no candles.
        found["indicators_1d"].discard(f"{CHANGED}|2025")
        return statuses == {"SUCCESS"} and found == expected

    wait_until(settled, FLOW_SECONDS, f"no fresh exports of just {CHANGED}", pause=1)
    new = exported_of(project, CHANGED)
    assert new.keys() == old.keys()
    for preset in PRESETS:
        assert_exported(project, "1D", preset, CHANGED)
        name = f"exports/backtests/1D/{preset}/{CHANGED}/manifest.json"
        assert new[name] != old[name]
        assert json.loads((project.data / name).read_text())["bars"] == 366
    assert {symbol: exported_of(project, symbol) for symbol in untouched} == untouched


def test_the_doctor_sees_the_daemon(project: Project, server: tuple[subprocess.Popen[bytes], str]) -> None:
    done = project.coin_hts("doctor", "--json")
    assert done.returncode == 0, done.stdout
    states = {finding["name"]: finding["state"] for finding in json.loads(done.stdout)}
    assert states["daemon"] == "ok"


def test_ctrl_c_ends_all_of_it(project: Project, server: tuple[subprocess.Popen[bytes], str]) -> None:
    process, _ = server
    assert len(processes_in(project.home)) >= 4, "web server, daemon, code server and their parent"
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) in (0, -signal.SIGINT)
    wait_until(lambda: not processes_in(project.home), 30, f"left running: {processes_in(project.home)}")
