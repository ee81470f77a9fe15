"""How often hyperparameters are worth keeping, wherever a trajectory is recorded."""

from __future__ import annotations

import math

ALL_BELOW_BYTES = 64 * 1024  # every step's hyperparameters are kept while they are small,
KEPT = 100  # and about so many of a whole run otherwise
RECENT = 256  # of the newest that are kept, all; of those before them, with every doubling of their age half as many


def snapshot_interval(nbytes: int, n_steps: int) -> int:
    """Outer steps between two snapshots of `nbytes` in a run of `n_steps`; the best and the last are kept besides."""
    return 1 if nbytes <= ALL_BELOW_BYTES else max(1, math.ceil(n_steps / KEPT))


def keeps(step: int, newest: int, every: int) -> bool:
    """Whether a snapshot that was taken at `step` for its turn is still kept when there is one of `newest`.

    The steps that are kept of one age are among those that were kept of any age before, so nothing is missed that
    was dropped.
    """
    age = (newest - step) // every
    return step % (every * 2 ** (age // RECENT).bit_length()) == 0


def outlived(newest: int, every: int) -> list[int]:
    """The steps that `keeps` gives up when a snapshot of `newest` is taken."""
    ages = (RECENT * 2**k for k in range(newest.bit_length()))
    steps = [newest - age * every for age in ages]
    return [step for step in steps if step > 0 and not keeps(step, newest, every)]
