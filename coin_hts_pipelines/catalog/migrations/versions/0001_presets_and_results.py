"""Presets and the result index."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

_SCHEMA = "catalog"
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "presets",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("timeframe", sa.Text, nullable=False),
        sa.Column("request", JSONB, nullable=False),
        sa.Column("start_date", sa.Text),
        sa.Column("end_date", sa.Text),
        sa.Column("builtin", sa.Boolean, nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_presets"),
        sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9_]{0,63}$'", name="name_form"),
        schema=_SCHEMA,
    )
    op.create_table(
        "results",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("preset", sa.Text),
        sa.Column("task", sa.Text),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("timeframe", sa.Text, nullable=False),
        sa.Column("symbols", JSONB, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("start_date", _TIME, nullable=False),
        sa.Column("end_date", _TIME, nullable=False),
        sa.Column("candle_source", sa.Text, nullable=False),
        sa.Column("request", JSONB, nullable=False),
        sa.Column("figures", JSONB, nullable=False),
        sa.Column("inputs_digest", sa.Text, nullable=False),
        sa.Column("result_digest", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("finished_at", _TIME, nullable=False),
        sa.Column("duration_seconds", sa.Float, nullable=False),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_results"),
        sa.CheckConstraint("status IN ('completed', 'failed')", name="status"),
        sa.CheckConstraint("start_date <= end_date", name="dates"),
        sa.CheckConstraint("jsonb_typeof(symbols) = 'array' AND jsonb_array_length(symbols) > 0", name="symbols"),
        schema=_SCHEMA,
    )
    op.create_index("ix_results_symbols", "results", ["symbols"], schema=_SCHEMA, postgresql_using="gin")
    op.create_index("ix_results_preset", "results", ["timeframe", "preset", "finished_at"], schema=_SCHEMA)
    op.create_index("ix_results_finished_at", "results", ["finished_at"], schema=_SCHEMA)


def downgrade() -> None:
    """Take back."""
    op.drop_table("results", schema=_SCHEMA)
    op.drop_table("presets", schema=_SCHEMA)
