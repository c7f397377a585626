"""The coverage ledger."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSTZMULTIRANGE

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "coverage",
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("symbol", sa.Text, nullable=False),
        sa.Column("timeframe", sa.Text, nullable=False),
        sa.Column("covered", TSTZMULTIRANGE, nullable=False),
        sa.PrimaryKeyConstraint("source", "symbol", "timeframe", name="pk_coverage"),
        schema="catalog",
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("coverage", schema="catalog")
