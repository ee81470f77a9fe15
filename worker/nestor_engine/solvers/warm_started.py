"""Any solver, started from the solution of the last outer step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nestor import options
from nestor_engine.curvature import Operator
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import ColdSolver, Solver
from nestor_engine.tensors.part_state import NoState, PartState, kept_as

FAILED = (Outcome.diverged, Outcome.nonfinite)


@dataclass(frozen=True)
class WarmStartedState(PartState):
    """What the next outer step starts from.

    Attributes:
        solver: the state of the inner solver.
        adjoint: the last solution, shape (n,); None before the first outer step, and after a solve that failed.
    """

    solver: PartState = field(default_factory=NoState)
    adjoint: Tensor | None = field(default=None, metadata=kept_as("adjoint"))


class WarmStarted(options.WarmStarted, Solver[WarmStartedState]):
    """Starts from the solution of the last outer step [1, 2], because the weights change little between two steps.

    If the solve fails, or its residual exceeds that of zero, the system is solved again from zero, and the
    solution with the smaller residual counts. A solution that diverged is not kept.

    [1] Pedregosa (2016), Hyperparameter optimization with approximate gradient (HOAG).
    [2] Dagréou et al. (2022), A framework for bilevel optimization (SOBA).
    """

    if TYPE_CHECKING:
        solver: ColdSolver[Any]

    def init(self) -> WarmStartedState:
        """The state of the solver, and no solution to start from."""
        return WarmStartedState(self.solver.init())

    def solve(
        self, operator: Operator, b: Tensor, state: WarmStartedState, x0: Tensor | None = None
    ) -> tuple[Solution, WarmStartedState]:
        """See `Solver.solve`. `x0` is used only if no solution was kept."""
        adjoint = state.adjoint
        start = x0 if adjoint is None else adjoint
        solution, inner = self.solver.solve(operator, b, state.solver, start)
        if start is not None and (solution.outcome in FAILED or not solution.residual <= 1):
            adjoint = None
            cold, inner = self.solver.solve(operator, b, inner)
            solution = min(solution, cold, key=lambda s: math.inf if math.isnan(s.residual) else s.residual)
        if solution.outcome in (Outcome.converged, Outcome.truncated):
            adjoint = solution.x
        return solution, WarmStartedState(inner, adjoint)
