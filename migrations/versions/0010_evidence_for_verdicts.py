"""Keep with each trial the evidence for its verdict.

Trials of earlier versions have none until they take another step: the server then reads all of their steps once.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("evidence", JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("trials", "evidence")
