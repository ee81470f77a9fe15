"""Count what workers do, and keep the trace of a trial's submission and the memory of running trials.

All of it begins empty: what earlier versions did was not counted.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "counts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", "label", name="pk_counts"),
    )
    op.add_column("trials", sa.Column("traceparent", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("runner_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "runner_bytes")
    op.drop_column("trials", "traceparent")
    op.drop_table("counts")
