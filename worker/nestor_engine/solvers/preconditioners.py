"""Approximate inverses that are cheap to apply and are kept from one outer step to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestor import options
from nestor_engine.curvature import Operator
from nestor_engine.curvature.preconditioner import Preconditioner, Preconditions
from nestor_engine.implementations import Implementation
from nestor_engine.solvers.sketch import sketch
from nestor_engine.tensors.part_state import NoState, PartState, kept_as
from nestor_engine.tensors.random import derive_seed

# The smallest of AdamDiagonal's entries, relative to the largest: a weight without gradients may have a curvature.
MIN_RELATIVE = 1e-3


@dataclass(frozen=True)
class SketchState(PartState):
    """A sketch that several outer steps use.

    Attributes:
        rows, values: U, shape (rank, n), and Λ, shape (rank,); None before the first outer step.
        age: outer steps that have used it; -1 before the first.
    """

    rows: Tensor | None = field(default=None, metadata=kept_as("sketch.rows"))
    values: Tensor | None = field(default=None, metadata=kept_as("sketch.values"))
    age: int = field(default=-1, metadata=kept_as("sketch.age"))


class NystromSketch(options.NystromSketch, Implementation, Preconditioner[SketchState], Preconditions):
    """A randomized low-rank approximation of the curvature, Uᵀ Λ U, as a preconditioner [1].

        M⁻¹ = Uᵀ (Λ + μ)⁻¹ U + (I − Uᵀ U) / (λ_r + μ),

    with μ the operator's damping and λ_r the smallest eigenvalue of the sketch. It takes
    `rank` products of the undamped curvature, every `refresh` outer steps, and stores n × rank numbers.

    [1] Frangella, Tropp and Udell (2021), Randomized Nyström preconditioning.
    """

    def init(self) -> SketchState:
        """The state before the first outer step: no sketch."""
        return SketchState()

    def prepare(
        self, operator: Operator, like: Tensor, state: SketchState
    ) -> tuple[Callable[[Tensor], Tensor], SketchState]:
        """The application of M⁻¹, and the sketch with its age. A new sketch is taken every `refresh` outer steps."""
        rows, values = state.rows, state.values
        if rows is None or values is None or state.age % self.refresh == 0:
            rows, values = sketch(operator, like, self.rank, seed=derive_seed(0, "sketch", state.age))
        return _application(rows, values, operator.shift(like)), SketchState(rows, values, max(state.age, 0) + 1)


def _application(rows: Tensor, values: Tensor, shift: float) -> Callable[[Tensor], Tensor]:
    least = values[-1] + shift
    if not least > 0:
        return lambda r: r
    gains = least / (values + shift) - 1
    return lambda r: (r + (gains * (rows @ r)) @ rows) / least


class AdamDiagonal(options.AdamDiagonal, Implementation, Preconditioner[NoState], Preconditions):
    """The root of the inner optimizer's running mean of squared gradients; only the norm takes products.

        M = ‖C‖ √s / max √s + μ,      s the state `square` of Adam, AdamW or RMSprop, μ the operator's damping.

    Adam [1] divides by √s. It approximates the curvature's diagonal up to scale, if gradients are larger in
    steeper directions.

    [1] Kingma and Ba (2015), Adam: a method for stochastic optimization.
    """

    def init(self) -> NoState:
        """The empty state: the squared gradients are in the inner optimizer's state."""
        return NoState()

    def prepare(self, operator: Operator, like: Tensor, state: NoState) -> tuple[Callable[[Tensor], Tensor], NoState]:
        """The division by the diagonal of M.

        Raises:
            PreconditionerUnavailable: `operator` has no linearization.
        """
        root = operator.linearization.optimizer_state["square"].sqrt()  # `Config` checks that the optimizer keeps it
        shift = operator.shift(like)
        relative = (root / root.max().clamp_min(torch.finfo(root.dtype).tiny)).clamp_min(MIN_RELATIVE)
        diagonal = relative * (operator.norm(like) - shift) + shift
        return lambda r: r / diagonal, state
