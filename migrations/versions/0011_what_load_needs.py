"""Let frequent statements cost what they return: indexes, columns from specs, and when a user was last served.

The table of trials is written anew once. Stop workers and servers before, if it is large.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TUNES = "(spec #>> '{response,kind}') IS DISTINCT FROM 'frozen'"
ENDED = "state = ANY (ARRAY['complete', 'pruned', 'failed', 'cancelled'])"
COMPUTED = {
    "entry_point": ("text", "spec #>> '{problem,entry_point}'"),
    "starts_from": ("text", "spec #>> '{warm_start,trial}'"),
    "tunes": ("boolean NOT NULL", TUNES),
    "ended_value": ("double precision", f"CASE WHEN {TUNES} AND {ENDED} THEN best_value END"),
    "is_queued": ("boolean NOT NULL", "state = 'queued'"),
    "is_running": ("boolean NOT NULL", "state = 'running'"),
}
LINE = ["study_id", sa.text("(ends_after IS NULL)"), sa.text("priority DESC"), "queued_at", "id"]
INDEXES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "ix_trials_line": ("trials", LINE, {"postgresql_where": sa.text("is_queued")}),
    "ix_trials_running": ("trials", ["study_id"], {"postgresql_where": sa.text("is_running")}),
    "ix_trials_of_study": ("trials", ["study_id", "state"], {}),
    "ix_trials_ended_value": (
        "trials",
        ["study_id", "ended_value"],
        {"postgresql_where": sa.text("ended_value IS NOT NULL")},
    ),
    "ix_trials_starts_from": ("trials", ["starts_from"], {"postgresql_where": sa.text("starts_from IS NOT NULL")}),
    "ix_trials_program_id": ("trials", ["program_id"], {}),
    "ix_trials_dataset_id": ("trials", ["dataset_id"], {}),
    "ix_studies_owner_id": ("studies", ["owner_id", "id"], {}),
    "ix_snapshots_blob_id": ("snapshots", ["blob_id"], {}),
    "ix_checkpoints_blob_id": ("checkpoints", ["blob_id"], {}),
    "ix_results_blob_id": ("results", ["blob_id"], {}),
    "ix_programs_graphs": ("programs", ["owner_id", "graphs"], {}),
    "ix_programs_tensors": ("programs", ["owner_id", "tensors"], {}),
    "ix_datasets_owner_id": ("datasets", ["owner_id"], {}),
    "ix_datasets_splits": (
        "datasets",
        ["splits"],
        {"postgresql_using": "gin", "postgresql_ops": {"splits": "jsonb_path_ops"}},
    ),
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
    # One statement, because each writes the table anew.
    added = (f"ADD {name} {type_} GENERATED ALWAYS AS ({of}) STORED" for name, (type_, of) in COMPUTED.items())
    op.execute(f"ALTER TABLE trials {', '.join(added)}")
    op.drop_index("ix_trials_unfinished", "trials")
    for name, (table, columns, options) in INDEXES.items():
        op.create_index(name, table, columns, **options)


def downgrade() -> None:
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table)
    unfinished = sa.text("state IN ('queued', 'running')")
    op.create_index("ix_trials_unfinished", "trials", ["state", "lease_expires_at"], postgresql_where=unfinished)
    for name in COMPUTED:
        op.drop_column("trials", name)
    op.drop_column("users", "served_at")
