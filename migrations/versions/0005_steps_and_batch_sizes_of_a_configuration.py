"""Move steps and batch sizes from the optimizers to the configuration, and rename the options of early stopping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# (optimizer, its former field) → the configuration's, and what None stood for
MOVED = {
    ("outer", "steps"): ("n_steps", None),
    ("inner", "steps"): ("inner_steps", 5),
    ("inner", "batch_size"): ("batch_size", 128),
    ("outer", "batch_size"): ("val_batch_size", 1000),
}
RENAMED = {"share": "fraction", "least_steps": "min_steps"}
MAX_STEPS = 2**31 - 1  # the new upper limit of the steps that had none; no trial takes so many
AT_ONCE = 1000

TRIALS = sa.table("trials", sa.column("id", sa.UUID()), sa.column("n_steps", sa.Integer()), sa.column("spec", JSONB()))


def upgrade() -> None:
    _rewrite(upgraded)


def downgrade() -> None:
    _rewrite(lambda spec, _: downgraded(spec))


def upgraded(spec: dict[str, Any], n_steps: int) -> dict[str, Any]:
    """What was submitted, in the words of this version. A trial takes `n_steps` if its submission does not say it."""
    spec = dict(spec)
    for (optimizer, field), (name, default) in MOVED.items():
        options = dict(spec.get(optimizer) or {})
        spec[name] = options.pop(field, None) or default or n_steps
        if options:
            spec[optimizer] = options
    stopping: dict[str, Any] | None = spec.pop("stop_early", None)
    stopping = stopping and {RENAMED.get(name, name): value for name, value in stopping.items()}
    spec["early_stopping"] = stopping and _limited(stopping, "min_steps")
    return _limited(spec, "warmup_steps")


def downgraded(spec: dict[str, Any]) -> dict[str, Any]:
    """What was submitted, in the words of the version before."""
    spec = dict(spec)
    for (optimizer, field), (name, _) in MOVED.items():
        spec[optimizer] = {**(spec.get(optimizer) or {}), field: spec.pop(name)}
    stopping, former = spec.pop("early_stopping"), {new: old for old, new in RENAMED.items()}
    spec["stop_early"] = stopping and {former.get(name, name): value for name, value in stopping.items()}
    return spec


def _limited(options: dict[str, Any], name: str) -> dict[str, Any]:
    return options | {name: min(options[name], MAX_STEPS)} if name in options else options


def _rewrite(change: Callable[[dict[str, Any], int], dict[str, Any]]) -> None:
    # Now, because 0006 needs this lock: a worker that waited for a row here would deadlock with it.
    op.execute("LOCK TABLE trials IN ACCESS EXCLUSIVE MODE")
    connection = op.get_bind()
    ids = list(connection.scalars(sa.select(TRIALS.c.id)))
    of_one = sa.update(TRIALS).where(TRIALS.c.id == sa.bindparam("trial")).values(spec=sa.bindparam("changed"))
    for start in range(0, len(ids), AT_ONCE):
        some = sa.select(TRIALS).where(TRIALS.c.id.in_(ids[start : start + AT_ONCE]))
        rows = [{"trial": row.id, "changed": change(row.spec, row.n_steps)} for row in connection.execute(some)]
        connection.execute(of_one, rows)
