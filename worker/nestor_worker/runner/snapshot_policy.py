"""Which steps get a snapshot and which keep it: fewer of older steps, and always the best and the last one."""

from __future__ import annotations

from nestor.lifecycle import evicted_steps, is_due, is_retained, snapshot_interval
from nestor.ranking import Ranking

LOSS = Ranking()


class SnapshotPolicy:
    """Decides which snapshots are written and deleted. The recorder writes the files.

    The best step is not written immediately, because in a converging trial every step is the best so far. It is
    written with each checkpoint, so that an attempt that continues from the checkpoint finds it recorded.

    Args:
        nbytes: the size of one snapshot.
        best_step, best_value: of the steps that earlier attempts recorded.
        ranking: how the study compares steps.
    """

    def __init__(
        self, *, n_steps: int, nbytes: int, best_step: int | None, best_value: float | None, ranking: Ranking = LOSS
    ) -> None:
        self._n_steps, self._ranking = n_steps, ranking
        self._every = snapshot_interval(nbytes, n_steps)
        self._best = (best_step, best_value)
        self._recorded_best = best_step

    def due(self, step: int) -> bool:
        """Whether `step` gets a snapshot regardless of its value."""
        return is_due(step, self._n_steps, self._every)

    def is_best(self, step: int, value: float | None) -> bool:
        """Note the value of `step`; None if it was not evaluated. Whether it is the best so far."""
        if not self._ranking.is_better(value, self._best[1]):
            return False
        self._best = (step, value)
        return True

    def evicted(self, step: int) -> list[int]:
        """The earlier steps whose snapshots retention deletes at `step`."""
        return [old for old in evicted_steps(step, self._every) if old not in (self._best[0], self._recorded_best)]

    def superseded(self) -> tuple[int | None, list[int]]:
        """The best step if its snapshot must be written, and the earlier best steps that it replaces."""
        best, before = self._best[0], self._recorded_best
        if best is None or best == before:
            return None, []
        replaced = [] if before is None or is_retained(before, best, self._every) else [before]
        return (None if self.due(best) and not replaced else best), replaced

    def recorded(self, best: int | None) -> None:
        """Note that the snapshot of the step `best` was written; None if there was none to write."""
        self._recorded_best = best or self._recorded_best
