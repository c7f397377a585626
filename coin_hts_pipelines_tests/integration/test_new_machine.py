"""A machine is lost, a new one is brought back by the commands of docs/operations.md, and goes on as if nothing was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from coin_hts_pipelines_tests.conftest import Project, make_project
from coin_hts_pipelines_tests.integration.helpers import materialized, processes_in, wait_until

RUN = ("run", "--symbols", "KRW-BTC,KRW-ETH", "--timeframes", "1D", "--start", "2023-01-01", "--end", "2024-12-31")
SERVED_SECONDS = 120


def answer(project: Project, *argv: str) -> Any:
    done = project.coin_hts(*argv)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if "--json" in argv else done.stdout + done.stderr


def digests(project: Project) -> dict[str, str]:
    """Every result by its digest, and every ranking by that of its file."""
    results = {
        row["id"]: row["result_digest"] for row in answer(project, "backtest", "list", "--limit", "1000", "--json")
    }
    files = (project.data / "rankings").rglob("*.parquet")
    rankings = {str(path.relative_to(project.data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert results
    assert rankings
    return results | rankings


@pytest.fixture
def machines() -> Iterator[tuple[Project, Project, Path]]:
    """An old machine, a new one, and the disk of the backups, which belongs to neither."""
    places = [Path(tempfile.mkdtemp(prefix="hts-")) for _ in range(3)]
    old, new = make_project(places[0]), make_project(places[1])
    try:
        yield old, new, places[2]
    finally:
        for project in (old, new):
            if not project.home.exists():
                continue
            for pid in processes_in(project.home):
                os.kill(pid, signal.SIGKILL)
            project.coin_hts("db", "stop")
        for place in places:
            shutil.rmtree(place, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_new_machine(machines: tuple[Project, Project, Path]) -> None:
    old, new, disk = machines
    answer(old, *RUN, "--json")
    preset = ("--strategy", "volume_zone_breakout", "--timeframe", "1D", "--stop-loss", "0.05")
    answer(old, "preset", "add", "zone_tight", *preset)
    answer(old, *RUN, "--json")
    by_hand = ("--strategy", "sma_cross", "--symbol", "KRW-BTC", "--timeframe", "1D")
    answer(old, "backtest", "run", *by_hand)
    before, presets = digests(old), answer(old, "preset", "list", "--json")
    partitions = materialized(old, "rankings_1d")
    (old.home / ".env").open("a").write(f"\nCOIN_HTS_BACKUP_DIR={disk}\n")
    made = answer(old, "backup", "create", "--json")
    # As the schedule does it: the job on the instance, not the command.
    drill = old.run(
        "dagster", "job", "execute", "-m", "coin_hts_pipelines.definitions", "-j", "drill_backup", **dotenv(old)
    )
    assert drill.returncode == 0, drill.stderr[-2000:]
    (report,) = (json.loads(path.read_bytes()) for path in (disk / "drills").glob("*.json"))
    assert (report["passed"], report["backup"], report["results"]) == (True, made["id"], len(before) - 3)
    assert report["recomputed"] in before
    old.coin_hts("db", "stop")
    shutil.rmtree(old.home)

    assert new.coin_hts("setup").returncode == 0  # what `make install` ends with
    (new.home / ".env").open("a").write(f"\nCOIN_HTS_BACKUP_DIR={disk}\n")
    answer(new, "backup", "restore", "latest")
    port = free_port()
    up = new.start("coin-hts", "up", "--port", str(port))
    try:
        wait_until(lambda: served(port), SERVED_SECONDS, "the UI", pause=0.2)
    finally:
        up.terminate()
        up.wait(timeout=60)

    assert digests(new) == before
    assert answer(new, "preset", "list", "--json") == presets
    assert materialized(new, "rankings_1d") == partitions
    done = answer(new, *RUN, "--json")
    assert digests(new) == before, "what is computed again is the same, and replaces nothing"
    assert {row["symbol"] for row in done["timeframes"][0]["rankings"]["zone_tight"]} == {"KRW-BTC", "KRW-ETH"}
    findings = {one["name"]: one for one in answer(new, "doctor", "--json")}
    assert "restored for practice" in findings["backups"]["detail"]


def served(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def dotenv(project: Project) -> dict[str, str]:
    lines = (project.home / ".env").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name: value.strip("'") for name, value in variables.items()}
