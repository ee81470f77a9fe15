"""Approximate inverses that are cheap to apply and worth keeping from one outer step to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nestor_engine.bilevel import Tensors
from nestor_engine.curvature import Operator
from nestor_engine.errors import ConfigInvalid
from nestor_engine.seeding import derive_seed

LEAST = (
    1e-3  # of AdamDiagonal's entries, relative to the largest: a weight without gradients may still have a curvature
)


class Preconditioner(Protocol):
    """Prepares r ↦ M⁻¹ r with M ≈ A, symmetric and positive definite. The curvature `KFAC` is one, too."""

    def prepare(self, operator: Operator, like: Tensor, memory: Tensors) -> Callable[[Tensor], Tensor]:
        """The application of M⁻¹ to vectors of the shape of `like`, (n,); `memory` is written in place."""
        ...


@dataclass(frozen=True)
class NystromSketch(Preconditioner):
    """A randomised low-rank approximation of the curvature, U Λ Uᵀ, as a preconditioner [1].

        M⁻¹ = U (Λ + μ)⁻¹ Uᵀ + (I − U Uᵀ) / (λ_r + μ),

    with μ the operator's damping and λ_r the smallest eigenvalue that the sketch holds. It takes
    `rank` products of the undamped curvature, every `refresh` outer steps, and n × rank numbers.

    [1] Frangella, Tropp and Udell (2021), Randomized Nyström preconditioning.
    """

    rank: int = 50
    refresh: int = 10

    def __post_init__(self) -> None:
        if self.rank < 1 or self.refresh < 1:
            raise ConfigInvalid(reason=f"{self}: rank and refresh must be at least 1.")

    def prepare(self, operator: Operator, like: Tensor, memory: Tensors) -> Callable[[Tensor], Tensor]:
        age = int(memory.get("sketch.age", torch.tensor(-1)))
        if age < 0 or age % self.refresh == 0:
            basis, values = sketch(operator, like, self.rank, seed=derive_seed(0, "sketch", age))
            memory |= {"sketch.basis": basis, "sketch.values": values}
        memory["sketch.age"] = torch.tensor(max(age, 0) + 1)
        basis, values, shift = memory["sketch.basis"], memory["sketch.values"], operator.shift(like)
        least = values[-1] + shift
        if not least > 0:
            return lambda r: r
        gains = least / (values + shift) - 1
        return lambda r: (r + basis @ (gains * (basis.T @ r))) / least


@dataclass(frozen=True)
class AdamDiagonal(Preconditioner):
    """The root of the inner optimizer's running mean of squared gradients, at no product but that of the norm.

        M = ‖C‖ √s / max √s + μ,      s the slot `square` of Adam, AdamW or RMSprop, μ the operator's damping.

    What Adam [1] divides by, as a picture of the curvature's diagonal: right up to scale where gradients are
    larger in steeper directions.

    [1] Kingma and Ba (2015), Adam: a method for stochastic optimization.
    """

    def squares(self, slots: Tensors) -> Tensor:
        """What it reads of an inner optimizer's slots, shape (n,).

        Raises:
            ConfigInvalid: the optimizer keeps no such thing.
        """
        if "square" not in slots:
            raise ConfigInvalid(
                reason="AdamDiagonal() reads squared gradients, which the inner optimizer does not keep. "
                "Use Adam, AdamW or RMSprop as the inner optimizer, or NystromSketch() as the preconditioner."
            )
        return slots["square"]

    def prepare(self, operator: Operator, like: Tensor, memory: Tensors) -> Callable[[Tensor], Tensor]:
        del memory
        root = self.squares(operator.point.slots).sqrt()
        shift = operator.shift(like)
        relative = (root / root.max().clamp_min(torch.finfo(root.dtype).tiny)).clamp_min(LEAST)
        diagonal = relative * (operator.norm(like) - shift) + shift
        return lambda r: r / diagonal


def sketch(operator: Operator, like: Tensor, rank: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """U of shape (n, rank) and Λ of shape (rank,), descending, with U Λ Uᵀ ≈ the undamped curvature [1, Algorithm 2.1].

    [1] Frangella, Tropp and Udell (2021), Randomized Nyström preconditioning.
    """
    n = like.numel()
    rank = min(rank, n)
    generator = torch.Generator().manual_seed(seed)
    test = torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64).to(like)).Q
    image = operator.undamped(test.T).T  # (n, rank)
    nudge = torch.finfo(like.dtype).eps * image.norm()  # keeps the core positive definite against rounding
    image = image + nudge * test
    core = test.T @ image
    nothing = like.new_zeros(n, 1), like.new_zeros(1)
    if not torch.isfinite(core).all():  # LAPACK would raise; whoever takes products of this operator meets it, too
        return nothing
    values, vectors = torch.linalg.eigh((core + core.T).double() / 2)
    keep = values > values.max().clamp_min(0) * torch.finfo(like.dtype).eps * rank
    if not keep.any():
        return nothing
    root = (vectors[:, keep] / values[keep].sqrt()).to(like)
    left, singular, _ = torch.linalg.svd(image @ root, full_matrices=False)
    return left.contiguous(), (singular**2 - nudge).clamp_min(0)
