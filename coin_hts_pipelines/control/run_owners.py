"""Which process works on a run, so that runs of dead ones are ended: Dagster asks its run workers nothing.

Without this a run whose machine lost power stays `started`, and keeps the slot of its pool, for six hours.
"""

from __future__ import annotations

import os

import dagster as dg

from coin_hts_pipelines.operations.processes import is_dead, process_token

OWNER_TAG = "coin_hts/process"
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def owner_tags(run_id: str) -> dict[str, str]:
    """Tags of a run this process works on; its id is among them, for a run that is tried again inherits the tags."""
    token = process_token(os.getpid())
    return {OWNER_TAG: f"{token}/{run_id}"} if token else {}


def own(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Write down that this process works on a run."""
    tags = owner_tags(run.run_id)
    if not tags.items() <= run.tags.items():
        instance.add_run_tags(run.run_id, tags)


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Fail the runs that a dead process of this machine left unfinished, free their pool slots, and return their ids.

    A process of another host is never taken for dead: its runs end by Dagster's own limits.
    """
    dead = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        token, _, run_id = run.tags.get(OWNER_TAG, "").rpartition("/")
        if run_id == run.run_id and is_dead(token):
            instance.report_run_failed(run, "the process of this run ended without finishing it")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            dead.append(run.run_id)
    return dead
