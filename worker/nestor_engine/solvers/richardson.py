"""A few short steps on each step's fresh batch, which average the batches away."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestor_engine.curvature import Operator
from nestor_engine.curvature.preconditioner import Preconditions
from nestor_engine.errors import ConfigInvalid
from nestor_engine.solvers.preconditioners import NystromSketch
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import Solver
from nestor_engine.tensors.part_state import NoState, PartState, kept_as


@dataclass(frozen=True)
class RichardsonState(PartState):
    """What the next outer step continues from.

    Attributes:
        preconditioner: its state.
        steps: how many steps led to where a warm start begins.
    """

    preconditioner: PartState = field(default_factory=NoState)
    steps: int = field(default=0, metadata=kept_as("richardson.steps"))


@dataclass(frozen=True)
class Richardson(Solver[RichardsonState]):
    """Richardson's iteration with a preconditioner, each step a part of the steepest descent's [1, 2, 3]:

        z = M⁻¹ (b − A x),   x ← x + η (zᵀ(b − A x) / zᵀA z) z.

    Solving one mini-batch's system well fits its noise, and its inverse is not, even in the mean, that of all data.
    Parts of the way, each with another batch, average about 2/η batches, near to the solution of all. So it wants a
    warm start: `WarmStarted(Richardson())`. Its first 1/η steps are longer, 1/k for the k-th, so that it begins as a
    mean. No step goes beyond the minimum along z, so that a poor preconditioner makes it slow and not unstable.

    Stops at the first direction of negative curvature, as conjugate gradients do.

    Args:
        steps: on the same batch, one product each, besides one for where a warm start begins.
        rate: η; the smaller, the more is averaged, and the longer the solution lags behind the weights.
        preconditioner: an approximate inverse M⁻¹, up to scale; what it leaves out is learned slowly.

    [1] Richardson (1911), The approximate arithmetical solution by finite differences of physical problems.
    [2] Raydan and Svaiter (2002), Relaxed steepest descent and Cauchy-Barzilai-Borwein method.
    [3] Dagréou et al. (2022), A framework for bilevel optimization (SOBA), without a preconditioner.
    """

    steps: int = 1
    rate: float = 0.2
    preconditioner: Preconditions = field(default_factory=lambda: NystromSketch(rank=20, refresh=20))

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.rate <= 1:
            raise ConfigInvalid(reason=f"{self}: steps must be at least 1, and rate above 0 and at most 1.")

    @property
    def supports_sharding(self) -> bool:
        return self.preconditioner.as_preconditioner().supports_sharding

    @property
    def needs_optimizer_state(self) -> frozenset[str]:
        return self.preconditioner.as_preconditioner().needs_optimizer_state

    def init(self) -> RichardsonState:
        return RichardsonState(self.preconditioner.as_preconditioner().init())

    def solve(
        self, operator: Operator, b: Tensor, state: RichardsonState, x0: Tensor | None = None
    ) -> tuple[Solution, RichardsonState]:
        size = b.norm()
        if not size > 0:  # zero, or NaN
            return Solution(b, Outcome.converged if size == 0 else Outcome.nonfinite, float(size)), state
        apply, prepared = self.preconditioner.as_preconditioner().prepare(operator, b, state.preconditioner)
        taken = 0 if x0 is None else state.steps
        x = torch.zeros_like(b) if x0 is None else x0
        r = b if x0 is None else b - operator(x0)
        outcome = Outcome.truncated
        for _ in range(self.steps):
            z = apply(r)
            Az = operator(z)
            slope, curvature = r @ z, z @ Az
            if not curvature > 0:  # true for NaN, too
                if slope != 0:  # else r is zero, and x the solution
                    failure = Outcome.indefinite if curvature < 0 else Outcome.singular
                    outcome = failure if torch.isfinite(curvature) else Outcome.nonfinite
                break
            step = max(self.rate, 1 / (taken + 1)) * slope / curvature
            x, r = x + step * z, r - step * Az
            taken += 1
        return Solution(x, outcome, float(r.norm() / size)), RichardsonState(prepared, taken)
