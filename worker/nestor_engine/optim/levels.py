"""Many hyperparameters of one tensor as a level that they share, and a deviation of each from it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nestor_engine.objective import Tensors
from nestor_engine.optim.optimizers import Optimizer

LEVEL = "level"  # in a state, and in front of the names of the level's own state


@dataclass(frozen=True)
class LevelAndDeviations:
    """Moves a tensor λ = start + level + deviation, with a normal prior on the deviations.

    To the outer objective it adds τ/n Σ deviation², for the prior's precision τ and n validation examples. If the
    validation loss is the mean of negative logarithms of a likelihood, then minimizing the sum finds the most probable
    λ under independent normal priors of the deviations with the variance 1/(2τ). The level has a flat prior. Level and
    deviations are moved by the same optimizer, each with a state of its own: the gradient of the level is the sum over
    the tensor. So the level can move although each entry alone has little effect, and an entry that the validation
    examples say nothing about goes with the level.

    Only λ is a hyperparameter of the problem. The level is in the state, beside those of the optimizer.

    Args:
        start: λ before the first update.
        precision: τ/n.
    """

    optimizer: Optimizer
    start: Tensor
    precision: float

    def step(self, x: Tensor, grad: Tensor, state: Tensors, k: int) -> tuple[Tensor, Tensors]:
        """The tensor and the state after update number `k`, from 0, along the gradient without the prior.

        A training that an earlier version began has no level; it goes on without one.
        """
        if k == 0:
            own, level = state, x.new_zeros(())
            of_level = self.optimizer.init(level)
        elif LEVEL in state:
            own = {name: value for name, value in state.items() if not name.startswith(LEVEL)}
            level, of_level = state[LEVEL], {name: state[_of_level(name)] for name in own}
        else:
            return self.optimizer.step(x, grad, state, k)
        deviation = x - self.start - level
        deviation, own = self.optimizer.step(deviation, grad + 2 * self.precision * deviation, own, k)
        level, of_level = self.optimizer.step(level, grad.sum(), of_level, k)
        named = {_of_level(name): value for name, value in of_level.items()}
        return self.start + level + deviation, {**own, LEVEL: level, **named}


def _of_level(name: str) -> str:
    return f"{LEVEL}_{name}"
