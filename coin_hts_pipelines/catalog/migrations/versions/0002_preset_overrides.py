"""Parameters of a preset for single symbols."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply."""
    column = sa.Column("overrides", JSONB, nullable=False, server_default=sa.text("'{}'"))
    op.add_column("presets", column, schema="catalog")


def downgrade() -> None:
    """Take back."""
    op.drop_column("presets", "overrides", schema="catalog")
