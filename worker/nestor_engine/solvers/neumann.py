"""The truncated Neumann series."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nestor import options
from nestor_engine.curvature import Operator
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import StatelessSolver
from nestor_engine.tensors.linalg import vector_norm
from nestor_engine.tensors.part_state import NoState


class Neumann(options.Neumann, StatelessSolver):
    """The truncated Neumann series of the inverse [1, Algorithm 1], with corrected signs.

    For a step size α, A = (I − (I − αA)) / α, so the geometric series gives

        A⁻¹ = α Σ_{j≥0} (I − αA)^j,      convergent iff |1 − α λ| < 1 for every eigenvalue λ of A,

    that is iff A is positive definite and α < 2 / λ_max. The first `terms` + 1 summands applied to b
    are summed by

        v ← v − α A v,   p ← p + v,   starting from v = p = b,   and α p is returned.

    (The slides write SGD as w + ∂L/∂w and the series as Σ (I + H)^j; neither descends. They also
    omit α, the learning rate of the SGD steps that the series unrolls.) With v the
    residual b − A x of the iterate x so far, the same recursion reads x ← x + α v, v ← v − α A v,
    so it can start from any x0, whose residual replaces b.

    Args:
        terms: products of the series; 0 is one step, α b.
        alpha: the step size, or "auto": 1 / λ_max, estimated by power iteration and kept between steps. The
            estimate is from below, and a new batch may have a larger λ_max; a product that shows this
            shortens the step.

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """

    def solve(
        self, operator: Operator, b: Tensor, state: NoState, x0: Tensor | None = None
    ) -> tuple[Solution, NoState]:
        """See `Solver.solve`. Takes `terms` + 1 products, one more with `x0`, and those of the norm for "auto"."""
        size = vector_norm(b)
        alpha = self.alpha
        if alpha == "auto":
            norm = operator.norm(b)
            if norm == 0 and 0 < size < math.inf:
                return Solution(torch.zeros_like(b), Outcome.singular, 1.0), state
            alpha = 1 / max(norm, torch.finfo(b.dtype).tiny)
        x = torch.zeros_like(b) if x0 is None else x0
        v = b if x0 is None else b - operator(x0)
        first = length = least = vector_norm(v)
        best = x
        stretch = torch.zeros_like(first)  # the largest α‖A v‖ / ‖v‖ so far
        for _ in range(self.terms + 1):
            Av = operator(v)
            growth = vector_norm(Av) / length
            if self.alpha == "auto" and alpha * growth > 1:
                alpha = _shortened(alpha, v, Av)
            stretch = torch.fmax(stretch, alpha * growth)
            # In as few passes over the vectors as possible: on small networks these cost as much as products.
            x = x.add(v, alpha=alpha)
            v = v.sub(Av, alpha=alpha)
            length = vector_norm(v)
            if length <= least:
                best, least = x, length
        if not torch.isfinite(length) or not torch.isfinite(size):
            outcome = Outcome.nonfinite if not torch.isfinite(first) else Outcome.diverged
        else:
            outcome = Outcome.diverged if length > first else Outcome.truncated
        # In a series that grows, an earlier iterate is nearer to the solution than the last one.
        x, residual = (x, length) if outcome is Outcome.truncated else (best, least)
        alpha_norm = float(stretch) if torch.isfinite(stretch) else None
        return Solution(x, outcome, float(residual / size) if size > 0 else 0.0, alpha, alpha_norm), state


def _shortened(alpha: float, v: Tensor, Av: Tensor) -> float:
    """A smaller step than `alpha`, which exceeds 1 / λ_max because ‖A v‖ > ‖v‖ / alpha.

    It is the step along v that leaves the least residual, vᵀA v / ‖A v‖², which is never below 1 / λ_max
    for a definite A. Along negative curvature every step is wrong: the series diverges, and its outcome says so.
    """
    along = float(v @ Av)
    return min(alpha, along / float(Av @ Av)) if along > 0 else alpha
