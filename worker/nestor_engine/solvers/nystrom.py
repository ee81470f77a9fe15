"""The inverse of a low-rank approximation plus a multiple of the identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nestor_engine.curvature import Operator
from nestor_engine.errors import ConfigInvalid
from nestor_engine.solvers.sketch import sketch
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import StatelessSolver, with_residual
from nestor_engine.tensors.part_state import NoState
from nestor_engine.tensors.random import derive_seed


@dataclass(frozen=True)
class Nystrom(StatelessSolver):
    """(Uᵀ Λ U + ρ I)⁻¹ b with a randomised Nyström sketch [1], by matrix products and no materialised rows.

    Args:
        rank: products that the sketch takes, every outer step.
        rho: the multiple of the identity, relative to the curvature's norm; the operator's own damping is added.

    [1] Hataya and Yamada (2023), Nyström method for accurate and scalable implicit differentiation.
    """

    rank: int = 20
    rho: float = 0.01

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.rho > 0:
            raise ConfigInvalid(reason=f"{self}: rank must be at least 1 and rho positive.")

    def solve(
        self, operator: Operator, b: Tensor, state: NoState, x0: Tensor | None = None
    ) -> tuple[Solution, NoState]:
        del x0
        rows, values = sketch(operator, b, self.rank, seed=derive_seed(0, "nystrom"))
        shift = operator.shift(b) + self.rho * float(values[0])
        if not shift > 0:
            return with_residual(operator, b, torch.zeros_like(b), Outcome.singular), state
        inside = rows @ b
        x = (b - inside @ rows) / shift + (inside / (values + shift)) @ rows
        return with_residual(operator, b, x, Outcome.truncated), state
