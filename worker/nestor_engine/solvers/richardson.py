"""A few short steps on each step's fresh batch, which average the batches away."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestor_engine.bilevel import Tensors
from nestor_engine.curvature import Operator
from nestor_engine.errors import ConfigInvalid
from nestor_engine.solvers.preconditioners import NystromSketch, Preconditioner
from nestor_engine.solvers.solution import Outcome, Solution, Solver


@dataclass(frozen=True)
class Richardson(Solver):
    """Stochastic Richardson iteration with a preconditioner: x ← x + η M⁻¹ (b − A x), one product a step [1, 2].

    Solving one mini-batch's system well fits its noise: its inverse is not, even in the mean, that of all data. Steps
    that are a part of the whole way, each with the curvature of another batch, have the full system's solution as
    their fixed point, for b − A x is linear in A, and average about 2/η batches around it. So it wants a warm start:
    `WarmStarted(Richardson())`. Its first 1/η steps are longer, 1/k for the k-th, so that it begins as a mean.

    It converges in the mean iff every eigenvalue of M⁻¹A is between 0 and 2/η. The residual is that of x before the
    last step: it costs nothing, and the batch is one that x has not seen.

    Args:
        steps: products, one each, all on the same batch.
        rate: η; the smaller, the more is averaged, and the longer the solution lags behind the weights.
        preconditioner: an approximate inverse M⁻¹, in size, too: η = 1 would be a Newton step if it were exact.

    [1] Richardson (1911), The approximate arithmetical solution by finite differences of physical problems.
    [2] Dagréou et al. (2022), A framework for bilevel optimization (SOBA), without a preconditioner.
    """

    steps: int = 1
    rate: float = 0.2
    preconditioner: Preconditioner = field(default_factory=lambda: NystromSketch(rank=20, refresh=10))

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.rate <= 1:
            raise ConfigInvalid(reason=f"{self}: steps must be at least 1, and rate above 0 and at most 1.")

    def solve(self, operator: Operator, b: Tensor, x0: Tensor | None = None, memory: Tensors | None = None) -> Solution:
        memory = {} if memory is None else memory
        size = b.norm()
        if not size > 0:  # zero, or NaN
            return Solution(b, Outcome.converged if size == 0 else Outcome.nonfinite, float(size))
        apply = self.preconditioner.prepare(operator, b, memory)
        taken = 0 if x0 is None else int(memory.get("richardson.steps", 0))
        x, residual = torch.zeros_like(b) if x0 is None else x0, 1.0
        for _ in range(self.steps):
            r = b if taken == 0 and x0 is None else b - operator(x)
            residual = float(r.norm() / size)
            x = x + max(self.rate, 1 / (taken + 1)) * apply(r)
            taken += 1
        memory["richardson.steps"] = torch.tensor(taken)
        if not torch.isfinite(x).all():
            return Solution(torch.zeros_like(b), Outcome.nonfinite, residual)
        return Solution(x, Outcome.truncated, residual)
