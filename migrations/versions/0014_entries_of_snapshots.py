"""Keep with each snapshot which of its entries stand out.

Snapshots of earlier versions have null. Their small tensors are compared when they are read.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("snapshots", sa.Column("entries", JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("snapshots", "entries")
