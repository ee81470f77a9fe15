"""Any solver, from where the outer step before left off."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from nestor_engine.curvature import Operator
from nestor_engine.solvers.neumann import Neumann
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import Solver
from nestor_engine.tensors.part_state import NoState, PartState, kept_as

FAILED = (Outcome.diverged, Outcome.nonfinite)


@dataclass(frozen=True)
class WarmStartedState(PartState):
    """What the next outer step starts from.

    Attributes:
        solver: the state of the solver that is started.
        adjoint: the last solution, shape (n,); None where there is none to start from.
    """

    solver: PartState = field(default_factory=NoState)
    adjoint: Tensor | None = field(default=None, metadata=kept_as("adjoint"))


@dataclass(frozen=True)
class WarmStarted(Solver[WarmStartedState]):
    """Starts from the solution of the outer step before [1, 2]; the weights move little between two of them.

    A start that fails, or that ends farther from solving the system than zero is, is tried again from
    zero, and the nearer of the two answers counts. A solution that diverged is not kept.

    [1] Pedregosa (2016), Hyperparameter optimization with approximate gradient (HOAG).
    [2] Dagréou et al. (2022), A framework for bilevel optimization (SOBA).
    """

    solver: Solver = field(default_factory=Neumann)

    @property
    def supports_sharding(self) -> bool:
        return self.solver.supports_sharding

    @property
    def needs_optimizer_state(self) -> frozenset[str]:
        return self.solver.needs_optimizer_state

    def init(self) -> WarmStartedState:
        return WarmStartedState(self.solver.init())

    def solve(
        self, operator: Operator, b: Tensor, state: WarmStartedState, x0: Tensor | None = None
    ) -> tuple[Solution, WarmStartedState]:
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
