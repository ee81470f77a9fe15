"""Approximate inverses that are cheap to apply and worth keeping from one outer step to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from nestor import options
from nestor_engine.curvature import Operator
from nestor_engine.implementations import Implementation
from nestor_engine.objective import Tensors
from nestor_engine.solvers.sketch import sketch
from nestor_engine.tensors.random import derive_seed

LEAST = (
    1e-3  # of AdamDiagonal's entries, relative to the largest: a weight without gradients may still have a curvature
)


class Preconditioner(Protocol):
    """Prepares r ↦ M⁻¹ r with M ≈ A, symmetric and positive definite. The curvature `KFAC` is one, too."""

    def prepare(self, operator: Operator, like: Tensor, memory: Tensors) -> Callable[[Tensor], Tensor]:
        """The application of M⁻¹ to vectors of the shape of `like`, (n,); `memory` is written in place."""
        ...


class NystromSketch(options.NystromSketch, Implementation):
    """A randomised low-rank approximation of the curvature, Uᵀ Λ U, as a preconditioner [1].

        M⁻¹ = Uᵀ (Λ + μ)⁻¹ U + (I − Uᵀ U) / (λ_r + μ),

    with μ the operator's damping and λ_r the smallest eigenvalue that the sketch holds. It takes
    `rank` products of the undamped curvature, every `refresh` outer steps, and n × rank numbers.

    [1] Frangella, Tropp and Udell (2021), Randomized Nyström preconditioning.
    """

    def prepare(self, operator: Operator, like: Tensor, memory: Tensors) -> Callable[[Tensor], Tensor]:
        age = int(memory.get("sketch.age", torch.tensor(-1)))
        if "sketch.rows" not in memory or age % self.refresh == 0:
            memory.pop("sketch.rows", None)  # not to hold two
            rows, values = sketch(operator, like, self.rank, seed=derive_seed(0, "sketch", age))
            memory |= {"sketch.rows": rows, "sketch.values": values}
        memory["sketch.age"] = torch.tensor(max(age, 0) + 1)
        rows, values, shift = memory["sketch.rows"], memory["sketch.values"], operator.shift(like)
        least = values[-1] + shift
        if not least > 0:
            return lambda r: r
        gains = least / (values + shift) - 1
        return lambda r: (r + (gains * (rows @ r)) @ rows) / least


class AdamDiagonal(options.AdamDiagonal, Implementation):
    """The root of the inner optimizer's running mean of squared gradients, at no product but that of the norm.

        M = ‖C‖ √s / max √s + μ,      s the slot `square` of Adam, AdamW or RMSprop, μ the operator's damping.

    What Adam [1] divides by, as a picture of the curvature's diagonal: right up to scale where gradients are
    larger in steeper directions.

    [1] Kingma and Ba (2015), Adam: a method for stochastic optimization.
    """

    def prepare(self, operator: Operator, like: Tensor, memory: Tensors) -> Callable[[Tensor], Tensor]:
        del memory
        root = operator.point.slots["square"].sqrt()  # `Config` checks that the optimizer keeps it
        shift = operator.shift(like)
        relative = (root / root.max().clamp_min(torch.finfo(root.dtype).tiny)).clamp_min(LEAST)
        diagonal = relative * (operator.norm(like) - shift) + shift
        return lambda r: r / diagonal
