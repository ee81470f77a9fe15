"""The identity in place of the inverse."""

from __future__ import annotations

from torch import Tensor

from nestor import options
from nestor_engine.curvature import Operator
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import StatelessSolver, with_residual
from nestor_engine.tensors.part_state import NoState


class Identity(options.Identity, StatelessSolver):
    """A⁻¹ ≈ I: T1–T2 [1], the first term of the series.

    [1] Luketina et al. (2016), Scalable gradient-based tuning of continuous regularization hyperparameters.
    """

    def solve(
        self, operator: Operator, b: Tensor, state: NoState, x0: Tensor | None = None
    ) -> tuple[Solution, NoState]:
        """b itself; one product measures the residual. `x0` is ignored."""
        del x0
        return with_residual(operator, b, b, Outcome.truncated), state
