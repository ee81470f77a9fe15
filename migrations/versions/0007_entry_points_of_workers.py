"""Record which entry points each worker offers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The default is for the workers that are there; the application names the value of each new one.
    op.add_column("workers", sa.Column("entry_points", JSONB(), nullable=False, server_default="{}"))
    op.alter_column("workers", "entry_points", server_default=None)


def downgrade() -> None:
    op.drop_column("workers", "entry_points")
