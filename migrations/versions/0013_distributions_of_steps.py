"""Keep how hyperparameters are distributed at some steps, and the numbers of each step apart from its record.

Both tables begin empty: steps that were recorded before have no distributions, and their numbers are read from their
records.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSON

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, column in (
        ("step_numbers", sa.Column("numbers", ARRAY(sa.Float()), nullable=False)),
        ("distributions", sa.Column("data", JSON(), nullable=False)),
    ):
        op.create_table(
            table,
            sa.Column("trial_id", sa.Uuid(), nullable=False),
            sa.Column("number", sa.Integer(), nullable=False),
            column,
            sa.PrimaryKeyConstraint("trial_id", "number", name=f"pk_{table}"),
            sa.ForeignKeyConstraint(
                ["trial_id"], ["trials.id"], name=f"fk_{table}_trial_id_trials", ondelete="CASCADE"
            ),
        )


def downgrade() -> None:
    op.drop_table("distributions")
    op.drop_table("step_numbers")
