"""Which process works on a run, and what becomes of the runs of dead ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from coin_hts_pipelines.control.run_owners import OWNER_TAG, end_dead_runs, is_dead, own, process_token
from coin_hts_pipelines.defs.sensors import dead_run_sensor


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def test_this_process_is_alive() -> None:
    token = process_token(os.getpid())
    assert token is not None
    host, pid, started = token.split("/")
    assert (host, pid) == (socket.gethostname(), str(os.getpid()))
    assert started.isdigit()
    assert not is_dead(token)


def test_a_process_that_endedis_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    token = process_token(process.pid)
    assert token is not None
    assert not is_dead(token)
    process.communicate(b"\n", timeout=30)
    assert process_token(process.pid) is None
    assert is_dead(token)


def test_a_reused_process_id_is_another_process() -> None:
    token = process_token(os.getpid())
    assert token is not None
    host, pid, started = token.split("/")
    assert is_dead(f"{host}/{pid}/{int(started) - 1}")


def test_of_another_machine_nothing_is_known() -> None:
    assert not is_dead(f"elsewhere/{os.getpid()}/1")


@dg.job
def _nothing() -> None:
    """Does nothing."""


def _ended_by_sensor(instance: dg.DagsterInstance) -> list[str]:
    said: Any = dead_run_sensor()(dg.build_sensor_context(instance=instance))
    _, found, ids = said.skip_message.partition("ended: ")
    return ids.split(", ") if found else []


@pytest.mark.parametrize("end", [end_dead_runs, _ended_by_sensor], ids=["call", "sensor"])
def test_runs_of_a_dead_process_are_failed_and_no_others(
    instance: dg.DagsterInstance, end: Callable[[dg.DagsterInstance], list[str]]
) -> None:
    host, pid, started = (process_token(os.getpid()) or "").split("/")
    owners = {
        "dead": f"{host}/{pid}/{int(started) - 1}",
        "alive": f"{host}/{pid}/{started}",
        "elsewhere": "other-host/1/1",
        "nobody": None,
        # Tried again by Dagster with the tags of a run that died; its own process has not begun yet.
        "tried again": f"{host}/{pid}/{int(started) - 1}",
    }
    runs = {}
    for name, owner in owners.items():
        run = instance.create_run_for_job(_nothing, status=dg.DagsterRunStatus.STARTED)
        runs[name] = run.run_id
        if owner:
            instance.add_run_tags(run.run_id, {OWNER_TAG: f"{owner}/{runs['dead' if name == 'tried again' else name]}"})
    assert end(instance) == [runs["dead"]]
    assert end(instance) == []
    status = {name: instance.get_run_by_id(run_id).status.value for name, run_id in runs.items()}  # type: ignore[union-attr]
    assert status == dict.fromkeys(owners, "STARTED") | {"dead": "FAILURE"}


def test_whoever_works_on_a_run_owns_it(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(_nothing, tags={OWNER_TAG: "somebody/1/1/of-another-run"})
    own(instance, run)
    owned = instance.get_run_by_id(run.run_id)
    assert owned is not None
    assert owned.tags[OWNER_TAG] == f"{process_token(os.getpid())}/{run.run_id}"
