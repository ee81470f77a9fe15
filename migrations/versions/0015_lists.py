"""Keep notes, and what lists of studies and trials are sorted by and show.

The table of trials is written anew twice. Stop workers and servers before, if it is large.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

RUNS = "state = 'running'"
TUNES = "(spec #>> '{response,kind}') IS DISTINCT FROM 'frozen'"
ENDED = "state = ANY (ARRAY['complete', 'pruned', 'failed', 'cancelled'])"
COMPUTED = {
    "ranked_value": ("double precision", f"CASE WHEN {TUNES} AND NOT {RUNS} THEN best_value END"),
    "resting_value": ("double precision", f"CASE WHEN NOT {RUNS} THEN best_value END"),
    "resting_step": ("integer", f"CASE WHEN NOT {RUNS} THEN step END"),
    "resting_seconds": ("double precision", f"CASE WHEN NOT {RUNS} THEN seconds END"),
    "resting_active_at": ("timestamptz", f"CASE WHEN NOT {RUNS} THEN active_at END"),
}
RESTING = {"postgresql_where": sa.text("NOT is_running")}
INDEXES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "ix_trials_state": (["study_id", "state", "number"], {}),
    "ix_trials_ranked_value": (
        ["study_id", "ranked_value", "number"],
        {"postgresql_where": sa.text("ranked_value IS NOT NULL")},
    ),
    "ix_trials_resting_value": (["study_id", "resting_value", "number"], RESTING),
    "ix_trials_resting_step": (["study_id", "resting_step", "number"], RESTING),
    "ix_trials_resting_seconds": (["study_id", "resting_seconds", "number"], RESTING),
    "ix_trials_resting_active_at": (
        ["study_id", "resting_active_at"],
        {"postgresql_where": sa.text("resting_active_at IS NOT NULL")},
    ),
    "ix_trials_labeled": (
        ["study_id", "number"],
        {"postgresql_where": sa.text("(tags <> '{}'::text[] OR note <> ''::text)")},
    ),
}


def upgrade() -> None:
    for table in ("studies", "trials"):
        # The default is for the rows that are there; the application names the value of each new one.
        op.add_column(table, sa.Column("note", sa.Text(), nullable=False, server_default=""))
        op.alter_column(table, "note", server_default=None)
    op.add_column("trials", sa.Column("sparkline", JSONB(), nullable=True))
    op.add_column("trials", sa.Column("pace", JSONB(), nullable=True))
    op.add_column("trials", sa.Column("active_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE trials SET active_at = greatest(created_at, queued_at, claimed_at, finished_at)")
    op.alter_column("trials", "active_at", nullable=False, server_default=sa.func.now())
    op.drop_index("ix_trials_ended_value", "trials")
    # One statement, because each writes the table anew.
    added = (f"ADD {name} {type_} GENERATED ALWAYS AS ({of}) STORED" for name, (type_, of) in COMPUTED.items())
    op.execute(f"ALTER TABLE trials DROP ended_value, {', '.join(added)}")
    for name, (columns, options) in INDEXES.items():
        op.create_index(name, "trials", columns, **options)


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(name, "trials")
    for name in (*COMPUTED, "active_at", "pace", "sparkline", "note"):
        op.drop_column("trials", name)
    op.drop_column("studies", "note")
    ended = f"CASE WHEN {TUNES} AND {ENDED} THEN best_value END"
    op.execute(f"ALTER TABLE trials ADD ended_value double precision GENERATED ALWAYS AS ({ended}) STORED")
    where = sa.text("ended_value IS NOT NULL")
    op.create_index("ix_trials_ended_value", "trials", ["study_id", "ended_value"], postgresql_where=where)
