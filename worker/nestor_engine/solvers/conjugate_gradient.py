"""Conjugate gradients, plain and preconditioned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestor_engine.curvature import Operator
from nestor_engine.curvature.preconditioner import Preconditions
from nestor_engine.errors import ConfigInvalid
from nestor_engine.solvers.preconditioners import NystromSketch
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import Solver, StatelessSolver
from nestor_engine.tensors.part_state import NoState, PartState


@dataclass(frozen=True)
class ConjugateGradient(StatelessSolver):
    """Conjugate gradients [1]; with a warm start, the solver of HOAG [2].

    Stops at the first direction of negative curvature, where the method has lost its meaning, and
    answers with the iterate before it. On a network's Hessian without damping even the precision of the
    arithmetic decides the answer, so a curvature without damping is damped by `damping`.

    Args:
        steps: at most so many products, one each.
        damping: of a curvature that has none of its own, relative to its norm; 0 leaves it without.
        rtol: stop when ‖b − A x‖ ≤ rtol ‖b‖.

    [1] Hestenes and Stiefel (1952), Methods of conjugate gradients for solving linear systems.
    [2] Pedregosa (2016), Hyperparameter optimization with approximate gradient.
    """

    steps: int = 10
    damping: float = 0.03
    rtol: float = 1e-6

    def __post_init__(self) -> None:
        _check(self)

    def solve(
        self, operator: Operator, b: Tensor, state: NoState, x0: Tensor | None = None
    ) -> tuple[Solution, NoState]:
        return _conjugate(operator.damped(self.damping), b, x0, lambda r: r, self.steps, self.rtol), state


@dataclass(frozen=True)
class PreconditionedCG(Solver[PartState]):
    """Conjugate gradients on a system that a preconditioner has made rounder. Its state is the preconditioner's.

    Args:
        steps: at most so many products, one each, besides those of the preconditioner.
        preconditioner: an approximate inverse that is cheap to apply, kept between outer steps.
        damping: as for `ConjugateGradient`.
        rtol: stop when ‖b − A x‖ ≤ rtol ‖b‖.
    """

    steps: int = 4
    preconditioner: Preconditions = field(default_factory=NystromSketch)
    damping: float = 0.03
    rtol: float = 1e-6

    def __post_init__(self) -> None:
        _check(self)

    @property
    def supports_sharding(self) -> bool:
        return self.preconditioner.as_preconditioner().supports_sharding

    @property
    def needs_optimizer_state(self) -> frozenset[str]:
        return self.preconditioner.as_preconditioner().needs_optimizer_state

    def init(self) -> PartState:
        return self.preconditioner.as_preconditioner().init()

    def solve(
        self, operator: Operator, b: Tensor, state: PartState, x0: Tensor | None = None
    ) -> tuple[Solution, PartState]:
        operator = operator.damped(self.damping)
        apply, state = self.preconditioner.as_preconditioner().prepare(operator, b, state)
        return _conjugate(operator, b, x0, apply, self.steps, self.rtol), state


def _check(solver: ConjugateGradient | PreconditionedCG) -> None:
    if solver.steps < 1 or not solver.rtol >= 0 or not solver.damping >= 0:
        raise ConfigInvalid(reason=f"{solver}: steps must be at least 1; damping and rtol may not be negative.")


def _conjugate(
    operator: Operator,
    b: Tensor,
    x0: Tensor | None,
    precondition: Callable[[Tensor], Tensor],
    steps: int,
    rtol: float,
) -> Solution:
    size = b.norm()
    if not size > 0:  # zero, or NaN
        return Solution(b, Outcome.converged if size == 0 else Outcome.nonfinite, float(size))
    x = torch.zeros_like(b) if x0 is None else x0
    r = b if x0 is None else b - operator(x0)
    z = precondition(r)
    p, rz = z, r @ z
    outcome = Outcome.truncated
    for _ in range(steps):
        if r.norm() <= rtol * size:
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
    # The recursion for r drifts from the truth in float32, so what is reported is measured.
    residual = float((b - operator(x)).norm() / size)
    if outcome is Outcome.truncated and residual <= rtol:
        outcome = Outcome.converged
    if not math.isfinite(residual):
        return Solution(torch.zeros_like(b), Outcome.nonfinite, residual)
    return Solution(x, outcome, residual)
