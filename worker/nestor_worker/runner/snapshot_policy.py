"""Which steps' hyperparameters are kept: of each age ever fewer, and always the best and the last."""

from __future__ import annotations

from nestor.lifecycle import evicted_steps, is_better, is_due, is_retained, snapshot_interval


class Snapshots:
    """The policy alone; the recorder writes the files.

    The best step is not written at once, since while a trial goes well every step is the best so far: it is
    due together with each checkpoint, so that a trial that goes on from there finds it recorded.
    """

    def __init__(self, *, n_steps: int, nbytes: int, best_step: int | None, best_value: float | None) -> None:
        self._n_steps = n_steps
        self._every = snapshot_interval(nbytes, n_steps)
        self._best = (best_step, best_value)
        self._recorded_best = best_step

    def due(self, step: int) -> bool:
        """Whether a snapshot is taken at `step`, whatever its value."""
        return is_due(step, self._n_steps, self._every)

    def is_best(self, step: int, value: float) -> bool:
        """Note what a step is judged by; whether it is the best so far."""
        if not is_better(value, self._best[1]):
            return False
        self._best = (step, value)
        return True

    def evicted(self, step: int) -> list[int]:
        """The steps that are too old to be kept as densely, once `step` is."""
        return [old for old in evicted_steps(step, self._every) if old not in (self._best[0], self._recorded_best)]

    def superseded(self) -> tuple[int | None, list[int]]:
        """(the best step if it is to be written, the earlier best that it makes superfluous)."""
        best, before = self._best[0], self._recorded_best
        if best is None or best == before:
            return None, []
        gone = [] if before is None or is_retained(before, best, self._every) else [before]
        return (None if self.due(best) and not gone else best), gone

    def recorded(self, best: int | None) -> None:
        """Note that the best step's hyperparameters were written."""
        self._recorded_best = best or self._recorded_best
