"""Tables of the catalog, in the Postgres schema `catalog` (Dagster's own live in the schema `dagster`)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Identity, Index, MetaData, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB, TSTZMULTIRANGE
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "catalog"


class Base(DeclarativeBase):
    """Base of the catalog's tables; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "pk": "pk_%(table_name)s",
        },
    )
    type_annotation_map = {dict[str, Any]: JSONB, list[str]: JSONB, datetime: DateTime(timezone=True), str: Text}  # noqa: RUF012


class PresetRow(Base):
    """A named standing backtest."""

    __tablename__ = "presets"

    name: Mapped[str] = mapped_column(primary_key=True)
    timeframe: Mapped[str]
    request: Mapped[dict[str, Any]]
    start_date: Mapped[str | None]
    end_date: Mapped[str | None]
    builtin: Mapped[bool] = mapped_column(default=False)
    overrides: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (CheckConstraint("name ~ '^[a-z0-9][a-z0-9_]{0,63}$'", name="name_form"),)


class ResultRow(Base):
    """Index of every result ever made: key figures of all, files of the last few."""

    __tablename__ = "results"

    id: Mapped[str] = mapped_column(primary_key=True)
    preset: Mapped[str | None]
    task: Mapped[str | None]
    strategy: Mapped[str]
    timeframe: Mapped[str]
    symbols: Mapped[list[str]]
    status: Mapped[str]
    # A task of which no symbol was finished has no span.
    start_date: Mapped[datetime | None]
    end_date: Mapped[datetime | None]
    candle_source: Mapped[str]
    request: Mapped[dict[str, Any]]
    figures: Mapped[dict[str, Any]]
    inputs_digest: Mapped[str]
    result_digest: Mapped[str]
    path: Mapped[str]
    finished_at: Mapped[datetime]
    duration_seconds: Mapped[float]
    error: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("status IN ('completed', 'failed')", name="status"),
        CheckConstraint("start_date <= end_date", name="dates"),
        CheckConstraint("jsonb_typeof(symbols) = 'array' AND jsonb_array_length(symbols) > 0", name="symbols"),
        Index("ix_results_symbols", "symbols", postgresql_using="gin"),
        Index("ix_results_preset", "timeframe", "preset", "finished_at"),
        Index("ix_results_finished_at", "finished_at"),
    )


class TaskRow(Base):
    """A task (docs/tasks.md): its request and what became of it; all times are this database's clock."""

    __tablename__ = "tasks"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    request: Mapped[dict[str, Any]]
    backtests: Mapped[int]
    state: Mapped[str]
    progress: Mapped[float]
    symbols_done: Mapped[int]
    attempts: Mapped[int]
    max_attempts: Mapped[int]
    timeout_seconds: Mapped[float]
    created_at: Mapped[datetime]
    not_before: Mapped[datetime]
    claimed_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    run_key: Mapped[str | None]
    run_id: Mapped[str | None]
    worker: Mapped[str | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None]
    error: Mapped[str | None]
    error_class: Mapped[str | None]
    error_kind: Mapped[str | None]
    path: Mapped[str | None]
    cleaned_at: Mapped[datetime | None]

    # No check compares two times: a clock that is set back must not keep a task from ending.
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'completed', 'failed', 'cancelled')", name="state"),
        CheckConstraint("progress BETWEEN 0 AND 1", name="progress"),
        CheckConstraint("symbols_done >= 0", name="symbols_done"),
        CheckConstraint("backtests >= 1", name="backtests"),
        CheckConstraint("attempts BETWEEN 0 AND max_attempts AND max_attempts >= 1", name="attempts"),
        CheckConstraint("timeout_seconds > 0", name="timeout_seconds"),
        CheckConstraint("error_kind IN ('permanent', 'transient', 'timeout', 'lost')", name="error_kind"),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('completed', 'failed', 'cancelled'))", name="finished_at"
        ),
        CheckConstraint("claimed_at IS NULL OR (attempts >= 1 AND run_key IS NOT NULL)", name="claimed"),
        CheckConstraint(
            "state <> 'queued' OR num_nonnulls(started_at, heartbeat_at, run_id, cancel_requested_at) = 0",
            name="queued",
        ),
        CheckConstraint(
            "state <> 'running' OR num_nulls(claimed_at, started_at, heartbeat_at, run_id) = 0", name="running"
        ),
        CheckConstraint(
            "state <> 'completed' OR (progress = 1 AND path IS NOT NULL AND error IS NULL)", name="completed"
        ),
        CheckConstraint("state <> 'failed' OR num_nulls(error, error_class, error_kind) = 0", name="failed"),
        CheckConstraint("state <> 'cancelled' OR cancel_requested_at IS NOT NULL", name="cancelled"),
        CheckConstraint("cleaned_at IS NULL OR finished_at IS NOT NULL", name="cleaned"),
        Index(
            "uq_tasks_idempotency_key",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        Index("ix_tasks_claim", "state", "not_before", "created_at"),
        Index("ix_tasks_created_at", "created_at"),
        Index("ix_tasks_name", "name", "created_at"),
    )


class DeadLetterRow(Base):
    """A task that failed and waits for a person; complete in itself, so that it outlives the task."""

    __tablename__ = "dead_letters"

    task_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    request: Mapped[dict[str, Any]]
    attempts: Mapped[int]
    error: Mapped[str]
    error_class: Mapped[str]
    error_kind: Mapped[str]
    traceback: Mapped[str | None]
    died_at: Mapped[datetime]
    alerted_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("attempts >= 1", name="attempts"),
        CheckConstraint("error_kind IN ('permanent', 'transient', 'timeout', 'lost')", name="error_kind"),
        Index("ix_dead_letters_died_at", "died_at"),
    )


class CoverageRow(Base):
    """Bars that a source was asked for and that are complete: open times on the grid, `[start, end)` each."""

    __tablename__ = "coverage"

    source: Mapped[str] = mapped_column(primary_key=True)
    symbol: Mapped[str] = mapped_column(primary_key=True)
    timeframe: Mapped[str] = mapped_column(primary_key=True)
    covered: Mapped[Any] = mapped_column(TSTZMULTIRANGE)


class SymbolRow(Base):
    """A symbol of the universe: whether it is switched on, and since when its exchange lists it no more."""

    __tablename__ = "symbols"

    symbol: Mapped[str] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    name: Mapped[str]
    enabled: Mapped[bool]
    first_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    delisted_at: Mapped[datetime | None]


class AlertRow(Base):
    """Something a person should be told: one row each time it is said, so that what lasts is said again by a new one.

    `lasts` marks the newest word on a finding that has not ended; `handled_at` is when every sink had it.
    """

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    key: Mapped[str]
    kind: Mapped[str]
    severity: Mapped[str]
    title: Mapped[str]
    body: Mapped[str]
    link: Mapped[str | None]
    times: Mapped[int]
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    lasts: Mapped[bool]
    handled_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("severity IN ('info', 'warning', 'error')", name="severity"),
        CheckConstraint("times >= 1", name="times"),
        Index("uq_alerts_key", "key", unique=True, postgresql_where=text("lasts")),
        Index("ix_alerts_unhandled", "id", postgresql_where=text("handled_at IS NULL")),
    )


class AlertDeliveryRow(Base):
    """What became of an alert at one sink; those summed up in one message are `sent_with` the first of them."""

    __tablename__ = "alert_deliveries"

    alert_id: Mapped[int] = mapped_column(
        BigInteger,
        ForeignKey(f"{SCHEMA}.alerts.id", name="fk_alert_deliveries_alert_id", ondelete="CASCADE"),
        primary_key=True,
    )
    sink: Mapped[str] = mapped_column(primary_key=True)
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    sent_with: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("attempts >= 1", name="attempts"),
        CheckConstraint(
            "(sent_at IS NULL) = (sent_with IS NULL) AND (sent_at IS NULL) = (next_attempt_at IS NOT NULL)", name="sent"
        ),
        Index("ix_alert_deliveries_sent_at", "sink", "sent_at"),
    )
