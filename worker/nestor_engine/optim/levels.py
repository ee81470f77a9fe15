"""Many hyperparameters of one tensor as a level that they share, and a deviation of each from it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nestor_engine.objective import Tensors
from nestor_engine.optim.optimizers import Optimizer

LEVEL = "level"  # in a state; the optimizer's state of the level has this in front of its names


@dataclass(frozen=True)
class LevelAndDeviations:
    """Moves a tensor λ = level + deviation, with a normal prior on the deviations.

    To the outer objective it adds τ/n Σ deviation², for the prior's precision τ and n validation examples. If the
    validation loss is the mean of negative logarithms of a likelihood, then minimizing the sum finds the most probable
    λ under independent normal priors of the deviations with the variance 1/(2τ). The level has a flat prior. Level and
    deviations are moved by the same optimizer, each with a state of its own: the gradient of the level is the sum over
    the tensor. So the level can move although each entry alone has little effect, and an entry that the validation
    examples say nothing about stays near the level.

    Only λ is a hyperparameter of the problem. The level is in the state, beside those of the optimizer.

    Args:
        precision: τ/n.
    """

    optimizer: Optimizer
    precision: float

    def step(self, x: Tensor, grad: Tensor, state: Tensors, k: int) -> tuple[Tensor, Tensors]:
        """The tensor and the state after update number `k`, from 0, along the gradient without the prior.

        A training that an earlier version began has no level; it goes on without one.
        """
        if k == 0:
            level = x.mean()
            state = {**state, LEVEL: level, **_prefixed(self.optimizer.init(level))}
        elif LEVEL not in state:
            return self.optimizer.step(x, grad, state, k)
        level = state[LEVEL]
        own = {name: value for name, value in state.items() if not name.startswith(LEVEL)}
        of_level = {
            name.removeprefix(f"{LEVEL}_"): value for name, value in state.items() if name.startswith(f"{LEVEL}_")
        }
        deviation = x - level
        by_deviation = grad + 2 * self.precision * deviation
        deviation, own = self.optimizer.step(deviation, by_deviation, own, k)
        level, of_level = self.optimizer.step(level, grad.sum(), of_level, k)
        return level + deviation, {**own, LEVEL: level, **_prefixed(of_level)}


def _prefixed(state: Tensors) -> Tensors:
    return {f"{LEVEL}_{name}": value for name, value in state.items()}
