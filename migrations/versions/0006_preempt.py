"""Call the desired state of a trial that must yield its device `preempt`."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BEFORE = ("run", "stop", "cancel", "pause", "make_way")
AFTER = ("run", "stop", "cancel", "pause", "preempt")


def upgrade() -> None:
    _rename("make_way", "preempt", AFTER)


def downgrade() -> None:
    _rename("preempt", "make_way", BEFORE)


def _rename(old: str, new: str, words: tuple[str, ...]) -> None:
    listed = ", ".join(f"'{word}'" for word in words)
    op.drop_constraint(op.f("ck_trials_desired"), "trials", type_="check")
    op.execute(f"UPDATE trials SET desired = '{new}' WHERE desired = '{old}'")
    op.create_check_constraint(op.f("ck_trials_desired"), "trials", f"desired IN ({listed})")
