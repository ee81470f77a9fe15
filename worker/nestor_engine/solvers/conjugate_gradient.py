"""Conjugate gradients, plain and preconditioned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nestor import options
from nestor_engine.curvature import Operator
from nestor_engine.curvature.preconditioner import Preconditions
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import ColdSolver, StatelessSolver
from nestor_engine.tensors.linalg import vector_norm
from nestor_engine.tensors.part_state import NoState, PartState


class ConjugateGradient(options.ConjugateGradient, StatelessSolver):
    """Conjugate gradients [1]; with a warm start, the solver of HOAG [2].

    Stops at the first direction of negative curvature, where the method is not defined, and returns the
    iterate before it. On a network's Hessian without damping the result depends even on the precision of
    the arithmetic, so a curvature without damping is damped by `damping`.

    Args:
        steps: the largest number of iterations, one product each.
        damping: of a curvature that has none of its own, relative to its norm; 0 leaves it without.
        rtol: stop when ‖b − A x‖ ≤ rtol ‖b‖.

    [1] Hestenes and Stiefel (1952), Methods of conjugate gradients for solving linear systems.
    [2] Pedregosa (2016), Hyperparameter optimization with approximate gradient.
    """

    def solve(
        self, operator: Operator, b: Tensor, state: NoState, x0: Tensor | None = None
    ) -> tuple[Solution, NoState]:
        """See `Solver.solve`. Takes at most `steps` + 1 products, one more with `x0`, and those of the norm."""
        return _conjugate(operator.damped(self.damping), b, x0, lambda r: r, self.steps, self.rtol), state


class PreconditionedCG(options.PreconditionedCG, ColdSolver[PartState]):
    """Conjugate gradients with a preconditioner. Its state is that of the preconditioner.

    Args:
        steps: the largest number of iterations, one product each. The preconditioner takes its own products.
        preconditioner: an approximate inverse that is cheap to apply, kept between outer steps.
        damping: as for `ConjugateGradient`.
        rtol: stop when ‖b − A x‖ ≤ rtol ‖b‖.
    """

    if TYPE_CHECKING:
        preconditioner: Preconditions

    def init(self) -> PartState:
        """The state of the preconditioner before the first outer step."""
        return self.preconditioner.as_preconditioner().init()

    def solve(
        self, operator: Operator, b: Tensor, state: PartState, x0: Tensor | None = None
    ) -> tuple[Solution, PartState]:
        """See `Solver.solve`. The products of the preconditioner come on top of those of the iteration."""
        operator = operator.damped(self.damping)
        apply, state = self.preconditioner.as_preconditioner().prepare(operator, b, state)
        return _conjugate(operator, b, x0, apply, self.steps, self.rtol), state


def _conjugate(
    operator: Operator,
    b: Tensor,
    x0: Tensor | None,
    precondition: Callable[[Tensor], Tensor],
    steps: int,
    rtol: float,
) -> Solution:
    size = vector_norm(b)
    if not size > 0:  # zero, or NaN
        return Solution(b, Outcome.converged if size == 0 else Outcome.nonfinite, float(size))
    x = torch.zeros_like(b) if x0 is None else x0
    r = b if x0 is None else b - operator(x0)
    z = precondition(r)
    p, rz = z, r @ z
    outcome = Outcome.truncated
    for _ in range(steps):
        if vector_norm(r) <= rtol * size:
            break
        Ap = operator(p)
        curvature = p @ Ap
        if not curvature > 0:  # true for NaN, too
            failure = Outcome.indefinite if curvature < 0 else Outcome.singular
            outcome = failure if torch.isfinite(curvature) else Outcome.nonfinite
            break
        alpha = rz / curvature
        x = x + alpha * p
        r = r - alpha * Ap
        z = precondition(r)
        rz, before = r @ z, rz
        p = z + (rz / before) * p
    # In float32 the recursion for r drifts, so the reported residual is measured.
    residual = float(vector_norm(b - operator(x)) / size)
    if outcome is Outcome.truncated and residual <= rtol:
        outcome = Outcome.converged
    if not math.isfinite(residual):
        return Solution(torch.zeros_like(b), Outcome.nonfinite, residual)
    return Solution(x, outcome, residual)
