"""Keep with each uploaded blob which of its tensors are not finite.

Blobs of earlier versions have null. The server then reads their bytes when a program or data set is made of them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("blobs", sa.Column("not_finite", JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("blobs", "not_finite")
