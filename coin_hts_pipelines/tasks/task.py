"""What a task is: a request, and the record of what became of it (docs/tasks.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from coin_hts_pipelines.backtest import BacktestRequest

State = Literal["queued", "running", "completed", "failed", "cancelled"]
FINAL: frozenset[State] = frozenset({"completed", "failed", "cancelled"})
ErrorKind = Literal["permanent", "transient", "timeout", "lost"]

# Combinations times symbols of one task.
MOST_BACKTESTS = 200_000


@dataclass(frozen=True)
class TaskRequest:
    """One backtest or, with a `grid`, one sweep, over symbols and a span.

    `symbols` are canonical and sorted, `all` already resolved; `start` and `end` as people write them. `grid` maps
    names to values or ranges as `run_sweep` takes them (JSON form: a list, or `{"low", "high", "step"}`), `sampling`
    is its JSON form. `keep` exempts the result from the clean-up.
    """

    backtest: BacktestRequest
    symbols: tuple[str, ...]
    start: str | None = None
    end: str | None = None
    grid: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    keep: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON form; `from_dict` reads it back."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TaskRequest:
        """Read the form `to_dict` writes."""
        raise NotImplementedError


@dataclass(frozen=True)
class Claim:
    """The right to work on a task: valid as long as the task's attempt is this one."""

    task_id: str
    attempt: int
    request: TaskRequest
    timeout_seconds: float


@dataclass(frozen=True)
class Task:
    """A task as the catalog knows it; times are aware, `progress` 0..1, `queue_position` from 1 for queued ones."""

    id: str
    state: State
    request: TaskRequest
    progress: float
    symbols_done: int
    attempts: int
    max_attempts: int
    created_at: datetime
    not_before: datetime
    claimed_at: datetime | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    finished_at: datetime | None
    run_id: str | None
    cancel_reason: str | None
    cancel_requested: bool
    error: str | None
    error_class: str | None
    error_kind: ErrorKind | None
    path: str | None
    idempotency_key: str | None
    queue_position: int | None = None


def ids_of(claims: Sequence[Claim]) -> list[str]:
    """Task ids of claims."""
    return [claim.task_id for claim in claims]
