"""Tasks for tests: requests, claims, and rows whose times are set back instead of waiting."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from coin_hts_pipelines.backtest import BacktestRequest
from coin_hts_pipelines.catalog import Database
from coin_hts_pipelines.tasks.queue import TaskQueue
from coin_hts_pipelines.tasks.task import Claim, TaskRequest


def request(*symbols: str, **changes: Any) -> TaskRequest:
    """A small request."""
    return TaskRequest(BacktestRequest("volume_long_candle"), symbols or ("KRW-BTC",), **changes)


def claim_one(queue: TaskQueue, run_key: str = "key-1") -> Claim:
    """Claim the one task that is due."""
    (claim,) = queue.claim(run_key=run_key)
    return claim


def running(queue: TaskQueue, run_id: str = "run-1") -> Claim:
    """Submit, claim and start a task."""
    queue.submit(request())
    claim = claim_one(queue)
    assert queue.start(claim, run_id, "host-1")
    return claim


def set_back(database: Database, seconds: float = 100_000) -> None:
    """Every time of every task as if so much time had passed since."""
    columns = ("not_before", "claimed_at", "started_at", "heartbeat_at")
    changes = ", ".join(f"{name} = {name} - make_interval(secs => :seconds)" for name in columns)
    with database.session() as session:
        session.execute(sa.text(f"UPDATE catalog.tasks SET {changes}"), {"seconds": seconds})


def row_of(database: Database, task_id: str) -> dict[str, Any]:
    """Every column of a task."""
    with database.session() as session:
        found = session.execute(sa.text("SELECT * FROM catalog.tasks WHERE id = :id"), {"id": task_id})
        return dict(found.mappings().one())
