"""Approximate inverses that are cheap to apply and worth keeping from one outer step to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestor.errors import ConfigInvalid, SquaredGradientsMissing
from nestor_engine.curvature import Operator
from nestor_engine.curvature.preconditioner import Preconditioner
from nestor_engine.solvers.sketch import sketch
from nestor_engine.tensors.part_state import NoState, PartState, kept_as
from nestor_engine.tensors.random import derive_seed

# The smallest of AdamDiagonal's entries, relative to the largest: a weight without gradients may have a curvature.
MIN_RELATIVE = 1e-3
# Why the inner optimizer's state does not do, by the name of the tensor that is missing.
WITHOUT_STATE = {
    "square": "AdamDiagonal() reads squared gradients, which the inner optimizer does not keep. "
    "Use Adam, AdamW or RMSprop as the inner optimizer, or NystromSketch() as the preconditioner."
}


@dataclass(frozen=True)
class SketchState(PartState):
    """A sketch, which serves several outer steps.

    Attributes:
        rows, values: U, shape (rank, n), and Λ, shape (rank,); None before the first outer step.
        age: outer steps that have used it; -1 before the first.
    """

    rows: Tensor | None = field(default=None, metadata=kept_as("sketch.rows"))
    values: Tensor | None = field(default=None, metadata=kept_as("sketch.values"))
    age: int = field(default=-1, metadata=kept_as("sketch.age"))


@dataclass(frozen=True)
class NystromSketch(Preconditioner[SketchState]):
    """A randomised low-rank approximation of the curvature, Uᵀ Λ U, as a preconditioner [1].

        M⁻¹ = Uᵀ (Λ + μ)⁻¹ U + (I − Uᵀ U) / (λ_r + μ),

    with μ the operator's damping and λ_r the smallest eigenvalue that the sketch holds. It takes
    `rank` products of the undamped curvature, every `refresh` outer steps, and n × rank numbers.

    [1] Frangella, Tropp and Udell (2021), Randomized Nyström preconditioning.
    """

    rank: int = 50
    refresh: int = 10

    def __post_init__(self) -> None:
        if self.rank < 1 or self.refresh < 1:
            raise ConfigInvalid(reason=f"{self}: rank and refresh must be at least 1.")

    def init(self) -> SketchState:
        return SketchState()

    def prepare(
        self, operator: Operator, like: Tensor, state: SketchState
    ) -> tuple[Callable[[Tensor], Tensor], SketchState]:
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


@dataclass(frozen=True)
class AdamDiagonal(Preconditioner[NoState]):
    """The root of the inner optimizer's running mean of squared gradients, at no product but that of the norm.

        M = ‖C‖ √s / max √s + μ,      s the state `square` of Adam, AdamW or RMSprop, μ the operator's damping.

    What Adam [1] divides by, as a picture of the curvature's diagonal: right up to scale where gradients are
    larger in steeper directions.

    [1] Kingma and Ba (2015), Adam: a method for stochastic optimization.
    """

    @property
    def needs_optimizer_state(self) -> frozenset[str]:
        return frozenset({"square"})

    def init(self) -> NoState:
        return NoState()

    def prepare(self, operator: Operator, like: Tensor, state: NoState) -> tuple[Callable[[Tensor], Tensor], NoState]:
        """
        Raises:
            SquaredGradientsMissing: the weights were not brought by an optimizer that keeps squared gradients.
        """
        optimizer_state = operator.linearization.optimizer_state
        if "square" not in optimizer_state:
            raise SquaredGradientsMissing()
        root = optimizer_state["square"].sqrt()
        shift = operator.shift(like)
        relative = (root / root.max().clamp_min(torch.finfo(root.dtype).tiny)).clamp_min(MIN_RELATIVE)
        diagonal = relative * (operator.norm(like) - shift) + shift
        return lambda r: r / diagonal, state
