"""Give trials priorities, slices of time, and several devices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WISHES = ("run", "stop", "cancel", "pause")


def upgrade() -> None:
    for column, value in (("priority", "0"), ("devices", "1")):
        # The default is for the trials that are there; the application names the value of each new one.
        op.add_column("trials", sa.Column(column, sa.Integer(), nullable=False, server_default=value))
        op.alter_column("trials", column, server_default=None)
    op.add_column("trials", sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))
    _wishes(*WISHES, "make_way")


def downgrade() -> None:
    op.execute("UPDATE trials SET desired = 'run' WHERE desired = 'make_way'")
    _wishes(*WISHES)
    for column in ("claimed_at", "devices", "priority"):
        op.drop_column("trials", column)


def _wishes(*words: str) -> None:
    listed = ", ".join(f"'{word}'" for word in words)
    op.drop_constraint(op.f("ck_trials_desired"), "trials", type_="check")
    op.create_check_constraint(op.f("ck_trials_desired"), "trials", f"desired IN ({listed})")
