"""How often hyperparameters are worth keeping, wherever a trajectory is recorded."""

from __future__ import annotations

import math

ALL_BELOW_BYTES = 64 * 1024  # every step's hyperparameters are kept while they are small,
KEPT = 100  # and about so many of a whole run otherwise


def snapshot_interval(nbytes: int, n_steps: int) -> int:
    """Outer steps between two snapshots of `nbytes` in a run of `n_steps`; the best and the last are kept besides."""
    return 1 if nbytes <= ALL_BELOW_BYTES else max(1, math.ceil(n_steps / KEPT))
