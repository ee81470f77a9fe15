"""The inverse of a low-rank approximation plus a multiple of the identity."""

from __future__ import annotations

import torch
from torch import Tensor

from nestor import options
from nestor_engine.curvature import Operator
from nestor_engine.solvers.sketch import sketch
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import StatelessSolver, with_residual
from nestor_engine.tensors.part_state import NoState
from nestor_engine.tensors.random import derive_seed


class Nystrom(options.Nystrom, StatelessSolver):
    """(Uᵀ Λ U + ρ I)⁻¹ b with a randomized Nyström sketch [1].

    Args:
        rank: products that the sketch takes, every outer step.
        rho: the multiple of the identity, relative to the curvature's norm; the operator's own damping is added.

    [1] Hataya and Yamada (2023), Nyström method for accurate and scalable implicit differentiation.
    """

    def solve(
        self, operator: Operator, b: Tensor, state: NoState, x0: Tensor | None = None
    ) -> tuple[Solution, NoState]:
        """See `Solver.solve`. Takes `rank` products and one for the residual; `x0` is ignored."""
        del x0
        rows, values = sketch(operator, b, self.rank, seed=derive_seed(0, "nystrom"))
        shift = operator.shift(b) + self.rho * float(values[0])
        if not shift > 0:
            return with_residual(operator, b, torch.zeros_like(b), Outcome.singular), state
        inside = rows @ b
        x = (b - inside @ rows) / shift + (inside / (values + shift)) @ rows
        return with_residual(operator, b, x, Outcome.truncated), state
