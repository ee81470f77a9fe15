"""The result of a solver; a failure is a result, not an exception."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import Tensor


class Outcome(Enum):
    """How a solve ended. The value is the sentence that the user reads."""

    converged = "The residual fell below the tolerance."
    truncated = "The series ended after the given number of terms."
    diverged = (
        "The residual grew from term to term, so the series diverges: the step size is too large for the curvature, "
        "or the curvature has negative directions. Use alpha='auto', more damping, or GaussNewton."
    )
    indefinite = (
        "The curvature has a negative direction, so the inner problem is not at a minimum there. "
        "Use GaussNewton, more damping, or more inner steps."
    )
    singular = "The curvature has no inverse: some directions of the weights are flat. Add damping to the curvature."
    nonfinite = "The linear system is not finite: the training diverged before. Lower the inner learning rate."


@dataclass(frozen=True)
class Solution:
    """The best iterate found, and how good it is.

    Attributes:
        x: shape (n,); finite if b is.
        outcome: how the solve ended.
        residual: ‖b − A x‖ / ‖b‖, measured; NaN if the operator returned NaN.
        alpha: the step size, for solvers that have one.
        alpha_norm: α‖A‖, estimated from below; a series converges below 2.
    """

    x: Tensor
    outcome: Outcome
    residual: float
    alpha: float | None = None
    alpha_norm: float | None = None
