"""Keep waiting trials in the order in which they are claimed, so that a claim reads the heads of the lines only.

Other indexes serve lists of studies, and the search for data sets that refer to a blob.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

STATES = {"is_queued": "queued", "is_running": "running"}


def upgrade() -> None:
    # One statement, because each writes the table anew.
    added = (f"ADD {name} boolean NOT NULL GENERATED ALWAYS AS (state = '{of}') STORED" for name, of in STATES.items())
    op.execute(f"ALTER TABLE trials {', '.join(added)}")
    line = ["study_id", sa.text("(ends_after IS NULL)"), sa.text("priority DESC"), "queued_at", "id"]
    op.create_index("ix_trials_line", "trials", line, postgresql_where=sa.text("is_queued"))
    op.create_index("ix_trials_running", "trials", ["study_id"], postgresql_where=sa.text("is_running"))
    op.drop_index("ix_trials_unfinished", "trials")
    op.create_index("ix_studies_owner_id", "studies", ["owner_id", "id"])
    op.create_index(
        "ix_datasets_splits",
        "datasets",
        ["splits"],
        postgresql_using="gin",
        postgresql_ops={"splits": "jsonb_path_ops"},
    )


def downgrade() -> None:
    op.drop_index("ix_datasets_splits", "datasets")
    op.drop_index("ix_studies_owner_id", "studies")
    unfinished = sa.text("state IN ('queued', 'running')")
    op.create_index("ix_trials_unfinished", "trials", ["state", "lease_expires_at"], postgresql_where=unfinished)
    for name in ("ix_trials_line", "ix_trials_running"):
        op.drop_index(name, "trials")
    for name in STATES:
        op.drop_column("trials", name)
