"""Extend, retry and warm-start trials; give every wish a deadline; record each batch once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("start_blob_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_trials_start_blob_id_blobs"), "trials", "blobs", ["start_blob_id"], ["id"])
    op.create_index(op.f("ix_trials_start_blob_id"), "trials", ["start_blob_id"], unique=False)
    op.add_column("trials", sa.Column("answer_by", sa.DateTime(timezone=True), nullable=True))
    for counter in ("batches", "preemptions"):
        # The default is for the trials that are there; the application names the value of each new one.
        op.add_column("trials", sa.Column(counter, sa.Integer(), nullable=False, server_default="0"))
        op.alter_column("trials", counter, server_default=None)


def downgrade() -> None:
    for column in ("preemptions", "batches", "answer_by", "start_blob_id"):
        op.drop_column("trials", column)
