"""Remember how the newest attempt of a trial crashed, so that a trial that crashes the same way again can end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("crash", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("trials", "crash")
