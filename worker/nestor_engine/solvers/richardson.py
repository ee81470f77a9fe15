"""A few short steps on the new batch of each outer step, which average over batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nestor import options
from nestor_engine.curvature import Operator
from nestor_engine.curvature.preconditioner import Preconditions
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import ColdSolver
from nestor_engine.tensors.linalg import vector_norm
from nestor_engine.tensors.part_state import NoState, PartState, kept_as


@dataclass(frozen=True)
class RichardsonState(PartState):
    """What the next outer step continues from.

    Attributes:
        preconditioner: its state.
        steps: iterations taken so far since the last cold start.
    """

    preconditioner: PartState = field(default_factory=NoState)
    steps: int = field(default=0, metadata=kept_as("richardson.steps"))


class Richardson(options.Richardson, ColdSolver[RichardsonState]):
    """Richardson's iteration with a preconditioner; each step is a fraction of the steepest-descent step [1, 2, 3]:

        z = M⁻¹ (b − A x),   x ← x + η (zᵀ(b − A x) / zᵀA z) z.

    An accurate solution of one mini-batch's system fits the noise of the batch, and the mean of such solutions is not
    the solution for all data. Short steps, each on another batch, average about 2/η batches, which comes close to it.
    So use it with a warm start: `WarmStarted(Richardson())`. The first 1/η steps are longer, 1/k for the k-th, so that
    it begins as a mean. No step goes beyond the minimum along z, so a poor preconditioner makes it slow, not unstable.

    Stops at the first direction of negative curvature, as conjugate gradients do.

    Args:
        steps: iterations on the same batch, one product each. A warm start takes one product more.
        rate: η; a smaller rate averages more batches, and the solution lags further behind the weights.
        preconditioner: an approximate inverse M⁻¹, up to scale; directions that it misses converge slowly.

    [1] Richardson (1911), The approximate arithmetical solution by finite differences of physical problems.
    [2] Raydan and Svaiter (2002), Relaxed steepest descent and Cauchy-Barzilai-Borwein method.
    [3] Dagréou et al. (2022), A framework for bilevel optimization (SOBA), without a preconditioner.
    """

    if TYPE_CHECKING:
        preconditioner: Preconditions

    def init(self) -> RichardsonState:
        """The state of the preconditioner, and no steps."""
        return RichardsonState(self.preconditioner.as_preconditioner().init())

    def solve(
        self, operator: Operator, b: Tensor, state: RichardsonState, x0: Tensor | None = None
    ) -> tuple[Solution, RichardsonState]:
        """See `Solver.solve`. Takes at most `steps` products, one more with `x0`, and those of the preconditioner."""
        size = vector_norm(b)
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
        return Solution(x, outcome, float(vector_norm(r) / size)), RichardsonState(prepared, taken)
