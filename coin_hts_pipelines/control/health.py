"""Health of the Dagster instance itself."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from coin_hts_pipelines.control.instance import open_instance
from coin_hts_pipelines.operations.health import Finding

_STALE_SECONDS = 120


def check_instance() -> list[Finding]:
    """Storage, daemon heartbeats, and runs that are not finished."""
    try:
        with open_instance() as instance:
            return [_storage(instance), _daemon(instance), _runs(instance)]
    except Exception as error:
        return [Finding("dagster", "fail", f"{type(error).__name__}: {str(error).splitlines()[0]}")]


def _storage(instance: dg.DagsterInstance) -> Finding:
    kind = type(instance.run_storage).__name__
    if instance.is_ephemeral:
        return Finding("dagster", "fail", "the instance is a throw-away one: DAGSTER_HOME is not set")
    return Finding("dagster", "ok", f"{dg.__version__}, runs in {kind}")


def _daemon(instance: dg.DagsterInstance) -> Finding:
    beats = instance.get_daemon_heartbeats()
    if not beats:
        return Finding("daemon", "warn", "not running; `make up` starts it, and nothing happens by itself before")
    age = datetime.now(UTC).timestamp() - max(beat.timestamp for beat in beats.values())
    errors = [error for beat in beats.values() for error in (beat.errors or [])]
    if age > _STALE_SECONDS:
        return Finding("daemon", "warn", f"last heartbeat {age / 60:,.0f} min ago; `make up` starts it")
    if errors:
        return Finding("daemon", "fail", errors[0].message.strip().splitlines()[0])
    return Finding("daemon", "ok", f"heartbeat {age:,.0f} s ago")


def _runs(instance: dg.DagsterInstance) -> Finding:
    waiting = instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    running = instance.get_runs_count(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    )
    return Finding("runs", "ok", f"{running} running, {waiting} queued")
