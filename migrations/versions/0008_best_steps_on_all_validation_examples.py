"""Rank steps and trials by a metric, and keep the weights of the best step.

Steps that were recorded before keep the number by which they were compared: the held-out loss, else the validation loss
of their batch. The weights of their best steps were not kept.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

FORMER_VALUE = "coalesce(nullif(data -> 'held_out_loss', 'null'), data -> 'val_loss')"
# NULLIF compares jsonb, so that a number keeps its digits.
UPGRADED = f"data || jsonb_build_object('value', {FORMER_VALUE}, 'metrics', '{{}}'::jsonb, 'val_examples', NULL)"


def upgrade() -> None:
    op.add_column("studies", sa.Column("metric", sa.Text(), nullable=True))
    op.add_column("programs", sa.Column("metrics", postgresql.JSONB(), nullable=True))
    op.create_check_constraint(op.f("ck_studies_direction"), "studies", "direction IN ('minimize', 'maximize')")
    op.create_table(
        "results",
        sa.Column("trial_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("blob_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["trial_id"], ["trials.id"], name=op.f("fk_results_trial_id_trials"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_results_blob_id_blobs")),
        sa.PrimaryKeyConstraint("trial_id", "step", name=op.f("pk_results")),
    )
    op.execute(f"UPDATE steps SET data = {UPGRADED}")


def downgrade() -> None:
    op.execute("UPDATE steps SET data = data - 'value' - 'metrics' - 'val_examples'")
    op.drop_table("results")
    op.drop_constraint(op.f("ck_studies_direction"), "studies", type_="check")
    op.drop_column("programs", "metrics")
    op.drop_column("studies", "metric")
