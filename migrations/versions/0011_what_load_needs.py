"""Let frequent statements cost what they return: indexes, columns from specs, and when a user was last served."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PARTS = {
    "entry_point": (sa.Text(), "spec #>> '{problem,entry_point}'"),
    "starts_from": (sa.Text(), "spec #>> '{warm_start,trial}'"),
    "tunes": (sa.Boolean(), "(spec #>> '{response,kind}') IS DISTINCT FROM 'frozen'"),
}
INDEXES = {
    "ix_trials_program_id": ("trials", ["program_id"]),
    "ix_trials_dataset_id": ("trials", ["dataset_id"]),
    "ix_snapshots_blob_id": ("snapshots", ["blob_id"]),
    "ix_checkpoints_blob_id": ("checkpoints", ["blob_id"]),
    "ix_results_blob_id": ("results", ["blob_id"]),
    "ix_programs_graphs": ("programs", ["owner_id", "graphs"]),
    "ix_programs_tensors": ("programs", ["owner_id", "tensors"]),
    "ix_datasets_owner_id": ("datasets", ["owner_id"]),
}


def upgrade() -> None:
    op.add_column("users", sa.Column("served_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(
        """
        UPDATE users SET served_at = served.at FROM (
            SELECT owner_id, max(claimed_at) AS at FROM trials JOIN studies ON studies.id = study_id GROUP BY owner_id
        ) AS served WHERE served.owner_id = users.id
        """
    )
    for name, (type_, expression) in PARTS.items():
        nullable = name != "tunes"
        op.add_column("trials", sa.Column(name, type_, sa.Computed(expression, persisted=True), nullable=nullable))
    op.create_index("ix_trials_of_study", "trials", ["study_id", "state"], postgresql_include=["tunes", "best_value"])
    where = sa.text("starts_from IS NOT NULL")
    op.create_index("ix_trials_starts_from", "trials", ["starts_from"], postgresql_where=where)
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)


def downgrade() -> None:
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table)
    for name in ("ix_trials_of_study", "ix_trials_starts_from"):
        op.drop_index(name, "trials")
    for name in PARTS:
        op.drop_column("trials", name)
    op.drop_column("users", "served_at")
