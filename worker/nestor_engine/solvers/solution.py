"""What a solver promises, and what it answers: failure is data."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from nestor import options
from nestor_engine.curvature import Operator
from nestor_engine.implementations import Implementation
from nestor_engine.objective import Tensors


class Outcome(Enum):
    """How a solve ended. The value is the sentence that the user reads."""

    converged = "The residual fell below the tolerance."
    truncated = "The series was cut after its terms, as asked."
    diverged = (
        "The residual grew from term to term, so the series diverges: the step size is too large for the curvature, "
        "or the curvature has negative directions. Use alpha='auto', more damping, or GaussNewton."
    )
    indefinite = (
        "The curvature has a negative direction, so the inner problem is not at a minimum there. "
        "Use GaussNewton, more damping, or more inner steps."
    )
    singular = "The curvature has no inverse: some directions of the weights are flat. Add damping to the curvature."
    nonfinite = "NaN or inf in the linear system: the training diverged before it. Lower the inner learning rate."


@dataclass(frozen=True)
class Solution:
    """The best iterate found, and what is known of it.

    Attributes:
        x: shape (n,); finite, unless b was not.
        outcome: how the solve ended.
        residual: ‖b − A x‖ / ‖b‖, measured; NaN if the operator returned NaN.
        alpha: the step size, for those that have one.
        alpha_norm: α‖A‖, estimated from below; a series converges below 2.
    """

    x: Tensor
    outcome: Outcome
    residual: float
    alpha: float | None = None
    alpha_norm: float | None = None


class Solver(options.Solver, Implementation, abc.ABC):
    """Approximates A⁻¹ b."""

    @abc.abstractmethod
    def solve(self, operator: Operator, b: Tensor, x0: Tensor | None = None, memory: Tensors | None = None) -> Solution:
        """Solve A x = b.

        Args:
            operator: computes A v for v of shape (n,).
            b: right-hand side, shape (n,).
            x0: where to start, shape (n,); zeros by default.
            memory: what the solver keeps from one outer step to the next; written in place.

        Returns:
            A solve that falls short is not an exception: it is a `Solution` whose outcome says so.
        """


def judged(operator: Operator, b: Tensor, x: Tensor, outcome: Outcome) -> Solution:
    """A solution with its residual measured."""
    size = b.norm()
    residual = (b - operator(x)).norm() / size if size > 0 else size
    if not torch.isfinite(residual):
        outcome = Outcome.nonfinite
    return Solution(x, outcome, float(residual))
