"""Any solver, from where the outer step before left off."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from nestor import options
from nestor_engine.curvature import Operator
from nestor_engine.objective import Tensors
from nestor_engine.solvers.solution import Outcome, Solution, Solver

FAILED = (Outcome.diverged, Outcome.nonfinite)


class WarmStarted(options.WarmStarted, Solver):
    """Starts from the solution of the outer step before [1, 2]; the weights move little between two of them.

    A start that fails, or that ends farther from solving the system than zero is, is tried again from
    zero, and the nearer of the two answers counts. A solution that diverged is not kept.

    [1] Pedregosa (2016), Hyperparameter optimization with approximate gradient (HOAG).
    [2] Dagréou et al. (2022), A framework for bilevel optimization (SOBA).
    """

    if TYPE_CHECKING:
        solver: Solver

    def solve(self, operator: Operator, b: Tensor, x0: Tensor | None = None, memory: Tensors | None = None) -> Solution:
        memory = {} if memory is None else memory
        start = memory.get("adjoint", x0)
        solution = self.solver.solve(operator, b, start, memory)
        if start is not None and (solution.outcome in FAILED or not solution.residual <= 1):
            memory.pop("adjoint", None)
            cold = self.solver.solve(operator, b, None, memory)
            solution = min(solution, cold, key=lambda s: math.inf if math.isnan(s.residual) else s.residual)
        if solution.outcome in (Outcome.converged, Outcome.truncated):
            memory["adjoint"] = solution.x
        return solution
