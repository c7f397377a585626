"""Alerts and their deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "alerts",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("link", sa.Text),
        sa.Column("times", sa.Integer, nullable=False),
        sa.Column("first_seen_at", _TIME, nullable=False),
        sa.Column("last_seen_at", _TIME, nullable=False),
        sa.Column("lasts", sa.Boolean, nullable=False),
        sa.Column("handled_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
        sa.CheckConstraint("severity IN ('info', 'warning', 'error')", name="severity"),
        sa.CheckConstraint("times >= 1", name="times"),
        schema="catalog",
    )
    op.create_index(
        "uq_alerts_key", "alerts", ["key"], unique=True, schema="catalog", postgresql_where=sa.text("lasts")
    )
    op.create_index(
        "ix_alerts_unhandled", "alerts", ["id"], schema="catalog", postgresql_where=sa.text("handled_at IS NULL")
    )
    op.create_table(
        "alert_deliveries",
        sa.Column("alert_id", sa.BigInteger, nullable=False),
        sa.Column("sink", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", _TIME),
        sa.Column("sent_at", _TIME),
        sa.Column("sent_with", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("alert_id", "sink", name="pk_alert_deliveries"),
        sa.ForeignKeyConstraint(
            ["alert_id"], ["catalog.alerts.id"], name="fk_alert_deliveries_alert_id", ondelete="CASCADE"
        ),
        sa.CheckConstraint("attempts >= 1", name="attempts"),
        sa.CheckConstraint(
            "(sent_at IS NULL) = (sent_with IS NULL) AND (sent_at IS NULL) = (next_attempt_at IS NOT NULL)",
            name="sent",
        ),
        schema="catalog",
    )
    op.create_index("ix_alert_deliveries_sent_at", "alert_deliveries", ["sink", "sent_at"], schema="catalog")


def downgrade() -> None:
    """Take back."""
    op.drop_table("alert_deliveries", schema="catalog")
    op.drop_table("alerts", schema="catalog")
