"""Let trials be pruned, end after a step or a time, and have tags and attributes that change."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATES = ("queued", "running", "paused", "complete", "failed", "cancelled")
DESIRED = ("run", "stop", "cancel", "pause", "preempt")
ADDED = (
    ("tags", ARRAY(sa.Text()), "{}"),
    ("revision", sa.Integer(), "0"),
    ("seconds", sa.Float(), "0"),
)


def upgrade() -> None:
    for name, kind, value in ADDED:
        # The default is for the trials that are there; the application names the value of each new one.
        op.add_column("trials", sa.Column(name, kind, nullable=False, server_default=value))
        op.alter_column("trials", name, server_default=None)
    op.add_column("trials", sa.Column("ends_after", sa.Integer(), nullable=True))
    op.add_column("trials", sa.Column("ends_as", sa.Text(), nullable=True))
    op.create_check_constraint(op.f("ck_trials_end"), "trials", "(ends_after IS NULL) = (ends_as IS NULL)")
    _restrict("state", (*STATES, "pruned"))
    _restrict("desired", (*DESIRED, "prune"))


def downgrade() -> None:
    # A pruned trial keeps its result, as a complete one does.
    op.execute("UPDATE trials SET state = 'complete' WHERE state = 'pruned'")
    op.execute("UPDATE trials SET desired = 'stop' WHERE desired = 'prune'")
    _restrict("state", STATES)
    _restrict("desired", DESIRED)
    op.drop_constraint(op.f("ck_trials_end"), "trials", type_="check")
    for name in ("ends_as", "ends_after", "seconds", "revision", "tags"):
        op.drop_column("trials", name)


def _restrict(column: str, words: tuple[str, ...]) -> None:
    listed = ", ".join(f"'{word}'" for word in words)
    op.drop_constraint(op.f(f"ck_trials_{column}"), "trials", type_="check")
    op.create_check_constraint(op.f(f"ck_trials_{column}"), "trials", f"{column} IN ({listed})")
