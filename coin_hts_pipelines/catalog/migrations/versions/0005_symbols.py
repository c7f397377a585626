"""Symbols of the universe."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "symbols",
        sa.Column("symbol", sa.Text, nullable=False),
        sa.Column("exchange", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("first_seen_at", _TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("delisted_at", _TIME),
        sa.PrimaryKeyConstraint("symbol", name="pk_symbols"),
        schema="catalog",
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("symbols", schema="catalog")
