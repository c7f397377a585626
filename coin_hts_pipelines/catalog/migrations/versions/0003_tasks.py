"""Tasks and dead letters; a result of nothing finished has no span."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"

_SCHEMA = "catalog"
_TIME = sa.DateTime(timezone=True)
_KINDS = "error_kind IN ('permanent', 'transient', 'timeout', 'lost')"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "tasks",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("request", JSONB, nullable=False),
        sa.Column("backtests", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("symbols_done", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("timeout_seconds", sa.Float, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("not_before", _TIME, nullable=False),
        sa.Column("claimed_at", _TIME),
        sa.Column("started_at", _TIME),
        sa.Column("heartbeat_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.Column("run_key", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("worker", sa.Text),
        sa.Column("cancel_requested_at", _TIME),
        sa.Column("cancel_reason", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("error_class", sa.Text),
        sa.Column("error_kind", sa.Text),
        sa.Column("path", sa.Text),
        sa.Column("cleaned_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.CheckConstraint("state IN ('queued', 'running', 'completed', 'failed', 'cancelled')", name="state"),
        sa.CheckConstraint("progress BETWEEN 0 AND 1", name="progress"),
        sa.CheckConstraint("symbols_done >= 0", name="symbols_done"),
        sa.CheckConstraint("backtests >= 1", name="backtests"),
        sa.CheckConstraint("attempts BETWEEN 0 AND max_attempts AND max_attempts >= 1", name="attempts"),
        sa.CheckConstraint("timeout_seconds > 0", name="timeout_seconds"),
        sa.CheckConstraint(_KINDS, name="error_kind"),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('completed', 'failed', 'cancelled'))", name="finished_at"
        ),
        sa.CheckConstraint("claimed_at IS NULL OR (attempts >= 1 AND run_key IS NOT NULL)", name="claimed"),
        sa.CheckConstraint(
            "state <> 'queued' OR num_nonnulls(started_at, heartbeat_at, run_id, cancel_requested_at) = 0",
            name="queued",
        ),
        sa.CheckConstraint(
            "state <> 'running' OR num_nulls(claimed_at, started_at, heartbeat_at, run_id) = 0", name="running"
        ),
        sa.CheckConstraint(
            "state <> 'completed' OR (progress = 1 AND path IS NOT NULL AND error IS NULL)", name="completed"
        ),
        sa.CheckConstraint("state <> 'failed' OR num_nulls(error, error_class, error_kind) = 0", name="failed"),
        sa.CheckConstraint("state <> 'cancelled' OR cancel_requested_at IS NOT NULL", name="cancelled"),
        sa.CheckConstraint("cleaned_at IS NULL OR finished_at IS NOT NULL", name="cleaned"),
        schema=_SCHEMA,
    )
    op.create_index(
        "uq_tasks_idempotency_key",
        "tasks",
        ["idempotency_key"],
        unique=True,
        schema=_SCHEMA,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index("ix_tasks_claim", "tasks", ["state", "not_before", "created_at"], schema=_SCHEMA)
    op.create_index("ix_tasks_created_at", "tasks", ["created_at"], schema=_SCHEMA)
    op.create_index("ix_tasks_name", "tasks", ["name", "created_at"], schema=_SCHEMA)
    op.create_table(
        "dead_letters",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("request", JSONB, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("error_class", sa.Text, nullable=False),
        sa.Column("error_kind", sa.Text, nullable=False),
        sa.Column("traceback", sa.Text),
        sa.Column("died_at", _TIME, nullable=False),
        sa.Column("alerted_at", _TIME),
        sa.PrimaryKeyConstraint("task_id", name="pk_dead_letters"),
        sa.CheckConstraint("attempts >= 1", name="attempts"),
        sa.CheckConstraint(_KINDS, name="error_kind"),
        schema=_SCHEMA,
    )
    op.create_index("ix_dead_letters_died_at", "dead_letters", ["died_at"], schema=_SCHEMA)
    for column in ("start_date", "end_date"):
        op.alter_column("results", column, nullable=True, schema=_SCHEMA)


def downgrade() -> None:
    """Take back."""
    op.execute("DELETE FROM catalog.results WHERE start_date IS NULL OR end_date IS NULL")
    for column in ("start_date", "end_date"):
        op.alter_column("results", column, nullable=False, schema=_SCHEMA)
    op.drop_table("dead_letters", schema=_SCHEMA)
    op.drop_table("tasks", schema=_SCHEMA)
