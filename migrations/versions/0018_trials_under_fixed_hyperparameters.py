"""Find the trials of a study that train under fixed hyperparameters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_trials_fixed", "trials", ["study_id", "number"], postgresql_where=sa.text("NOT tunes"))


def downgrade() -> None:
    op.drop_index("ix_trials_fixed", "trials")
