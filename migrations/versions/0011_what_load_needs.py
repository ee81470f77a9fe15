"""Let frequent statements cost what they return: indexes, columns from specs, and when a user was last served."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TUNES = "(spec #>> '{response,kind}') IS DISTINCT FROM 'frozen'"
ENDED = "state = ANY (ARRAY['complete', 'pruned', 'failed', 'cancelled'])"
PARTS = {
    "entry_point": (sa.Text(), "spec #>> '{problem,entry_point}'"),
    "starts_from": (sa.Text(), "spec #>> '{warm_start,trial}'"),
    "tunes": (sa.Boolean(), TUNES),
    "ended_value": (sa.Float(), f"CASE WHEN {TUNES} AND {ENDED} THEN best_value ELSE NULL::double precision END"),
}
PARTIAL = {"ix_trials_ended_value": ["study_id", "ended_value"], "ix_trials_starts_from": ["starts_from"]}
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
    op.create_index("ix_trials_of_study", "trials", ["study_id", "state"])
    for name, columns in PARTIAL.items():
        where = sa.text(f"{columns[-1]} IS NOT NULL")
        op.create_index(name, "trials", columns, postgresql_where=where)
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)


def downgrade() -> None:
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table)
    for name in ("ix_trials_of_study", *PARTIAL):
        op.drop_index(name, "trials")
    for name in PARTS:
        op.drop_column("trials", name)
    op.drop_column("users", "served_at")
