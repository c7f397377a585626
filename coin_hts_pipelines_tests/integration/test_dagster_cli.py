"""Dagster's own commands in the project folder, in a fresh shell with nothing exported by hand."""

from __future__ import annotations

import subprocess

import pytest

from coin_hts_pipelines_tests.conftest import CHECKOUT, Project
from coin_hts_pipelines_tests.integration.helpers import LAYERS, last_event, materialized, run_statuses

MODULE = ("-m", "coin_hts_pipelines.definitions")
# A symbol is a dynamic partition: it has to be registered before Dagster accepts it, which `coin-hts run` does.
REGISTER = ("run", "--symbols", "KRW-BTC", "--timeframes", "1D", "--start", "2024-06-01", "--end", "2025-06-01")


@pytest.fixture(scope="module")
def ready(project: Project) -> Project:
    """A project after `coin-hts setup`, with one registered symbol; the code lies in it as in a clone."""
    (project.home / "coin_hts_pipelines").symlink_to(CHECKOUT / "coin_hts_pipelines")
    done = project.coin_hts("setup")
    assert done.returncode == 0, done.stderr
    assert "Postgres 1" in done.stdout
    env_file = project.home / ".env"
    assert env_file.stat().st_mode & 0o077 == 0, "a password may stand in it"
    assert f"DAGSTER_HOME='{project.home}'" in env_file.read_text()
    assert project.coin_hts(*REGISTER).returncode == 0
    return project


def materialize(project: Project, span: str) -> subprocess.CompletedProcess[str]:
    return project.run(
        "dagster", "asset", "materialize", *MODULE, "--select", "candles_1d", "--partition-range", span
    )  # fmt: skip


def test_definitions_validate(ready: Project) -> None:
    done = ready.run("dagster", "definitions", "validate")
    assert done.returncode == 0, done.stderr
    assert "All code locations passed validation" in done.stdout + done.stderr


def test_asset_list(ready: Project) -> None:
    done = ready.run("dagster", "asset", "list", *MODULE)
    assert done.returncode == 0, done.stderr
    expected = {f"{layer}_{timeframe}" for layer in LAYERS for timeframe in ("1d", "1h", "5m", "1m")}
    assert set(done.stdout.split()) >= expected


def test_with_the_env_file_sourced(ready: Project) -> None:
    script = "set -a; . ./.env; set +a; dagster asset list && dg check defs"
    done = subprocess.run(
        ["sh", "-c", script], cwd=ready.home, env=ready.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exports_1d" in done.stdout.split()
    assert "All definitions loaded successfully" in done.stdout


def test_materialize_a_range(ready: Project) -> None:
    before, old = last_event(ready), set(run_statuses(ready))
    done = materialize(ready, "KRW-BTC|2024...KRW-BTC|2025")
    assert done.returncode == 0, done.stderr
    assert materialized(ready, "candles_1d", before) == {"KRW-BTC|2024", "KRW-BTC|2025"}
    new = {run: status for run, status in run_statuses(ready).items() if run not in old}
    assert list(new.values()) == ["SUCCESS"], "not one run on the project's Postgres"


def test_a_range_that_holds_nothing_fails(ready: Project) -> None:
    before, old = last_event(ready), set(run_statuses(ready))
    done = materialize(ready, "KRW-BTC|2025...KRW-BTC|2024")
    assert done.returncode == 1
    assert "the range is empty or reversed" in done.stdout + done.stderr
    assert materialized(ready, "candles_1d", before) == set()
    assert [status for run, status in run_statuses(ready).items() if run not in old] == ["FAILURE"]


def test_a_partition_that_is_not_registered_is_refused(ready: Project) -> None:
    old, key = run_statuses(ready), "KRW-SEA|2025"
    done = ready.run("dagster", "asset", "materialize", *MODULE, "--select", "candles_1d", "--partition", key)
    assert done.returncode == 1
    assert key in done.stderr
    assert run_statuses(ready) == old
