"""Any solver, from where the outer step before left off."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from nestor_engine.bilevel import Tensors
from nestor_engine.curvature import Operator
from nestor_engine.solvers.neumann import Neumann
from nestor_engine.solvers.solution import Outcome, Solution, Solver


@dataclass(frozen=True)
class WarmStarted(Solver):
    """Starts from the solution of the outer step before [1, 2]; the weights move little between two of them.

    The kept solution is dropped when it is farther from solving the new system than zero is, or when
    the solve diverged.

    [1] Pedregosa (2016), Hyperparameter optimization with approximate gradient (HOAG).
    [2] Dagréou et al. (2022), A framework for bilevel optimization (SOBA).
    """

    solver: Solver = field(default_factory=Neumann)

    def solve(self, operator: Operator, b: Tensor, x0: Tensor | None = None, memory: Tensors | None = None) -> Solution:
        memory = {} if memory is None else memory
        solution = self.solver.solve(operator, b, memory.get("adjoint", x0), memory)
        if solution.outcome in (Outcome.diverged, Outcome.nonfinite) or not solution.residual <= 1:
            memory.pop("adjoint", None)
            solution = self.solver.solve(operator, b, None, memory)
        if solution.outcome in (Outcome.converged, Outcome.truncated):
            memory["adjoint"] = solution.x
        return solution
