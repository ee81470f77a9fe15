"""A symmetric operator on the weights, with its damping and an estimate of its norm."""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
from torch import Tensor

from nestor import options
from nestor_engine.autodiff.linearization import Point
from nestor_engine.autodiff.trace_cache import Product
from nestor_engine.errors import ConfigInvalid
from nestor_engine.implementations import Implementation
from nestor_engine.objective import Tensors
from nestor_engine.tensors.random import derive_seed

ROWS = 16  # vectors that a batched product takes at a time: each needs the memory of one forward pass
POWER_STEPS = 10  # products that the first estimate of the norm takes
NORM_SERVES = 4  # outer steps until one more product refreshes it


class Operator:
    """v ↦ (C + δ‖C‖ I) v for vectors of shape (n,), counting its products.

    The damping δ is relative to the spectral norm ‖C‖, so that one default serves problems of every
    scale. The norm is known, or estimated by power iteration; then the vector is kept in `memory`
    from one outer step to the next, and one product every few steps is enough after the first.

    Args:
        point: where C was taken, for who needs to know more than products.
        norm: ‖C‖, where it is known.
        inverse: (v, s) ↦ (C + s I)⁻¹ v, where that has a closed form.
        batched: (k, n) ↦ the product of each row, at once. On a GPU that is faster, for larger kernels fill it; on a
            CPU rows one by one are as fast and the same bits as a product alone.

    Attributes:
        together: vectors that are multiplied at a time, so that whoever has many can hand over as many at once.
        products: how many were taken.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        *,
        damping: float = 0.0,
        memory: Tensors | None = None,
        point: Point | None = None,
        norm: float | None = None,
        inverse: Callable[[Tensor, float], Tensor] | None = None,
        batched: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._product = product
        self._damping = damping
        self._memory = {} if memory is None else memory
        self._point = point
        self._norm = norm
        self._inverse = inverse
        self._batched = batched
        self.together = ROWS if batched else 1
        self.products = 0

    @property
    def point(self) -> Point:
        """Where the curvature was taken.

        Raises:
            ConfigInvalid: the operator is a bare matrix.
        """
        if self._point is None:
            raise ConfigInvalid(
                reason="This preconditioner reads the training loss, and the operator is not that of a curvature. "
                "Use NystromSketch, which needs products only."
            )
        return self._point

    def __call__(self, v: Tensor) -> Tensor:
        """The damped product; of each row when v has shape (k, n)."""
        shift = self.shift(v[0] if v.ndim > 1 else v)
        product = self.undamped(v)
        return product.add(v, alpha=shift) if shift else product

    def undamped(self, v: Tensor) -> Tensor:
        """The product without damping; of each row when v has shape (k, n)."""
        if v.ndim == 1:
            return self._multiply(v)
        if self._batched is None:
            return torch.stack([self._multiply(row) for row in v])
        self.products += len(v)
        return self._of_all(torch.cat([self._batched(rows) for rows in v.split(self.together)]))

    def damp(self, damping: float) -> None:
        """Damp an operator that is not damped; what a curvature was given by hand stays."""
        self._damping = self._damping or damping

    def shift(self, like: Tensor) -> float:
        """The multiple of the identity that damping adds, for vectors of the shape of `like`."""
        return self._damping * self._curvature_norm(like) if self._damping else 0.0

    def norm(self, like: Tensor) -> float:
        """An estimate of the largest |eigenvalue|, from below, damping included."""
        return self._curvature_norm(like) * (1 + self._damping)

    def inverse(self, b: Tensor) -> Tensor | None:
        """A⁻¹ b, damping included, in closed form; None if there is none, not finite if A is singular."""
        return None if self._inverse is None else self._inverse(b, self.shift(b))

    def _multiply(self, v: Tensor) -> Tensor:
        self.products += 1
        return self._of_all(self._product(v))

    def _of_all(self, product: Tensor) -> Tensor:
        """Of the whole batch, where each of several processes sees a part."""
        return product if self._point is None else self._point.share.mean(product)

    def _curvature_norm(self, like: Tensor) -> float:
        if self._norm is None:
            v, age = self._memory.get("power"), int(self._memory.get("norm.age", 0))
            length = float(self._memory.get("norm", 0.0))
            steps = 0 if age % NORM_SERVES and length else 1
            if v is None:
                generator = torch.Generator().manual_seed(derive_seed(0, "power", like.numel()))
                v = torch.randn(like.shape, generator=generator, dtype=torch.float64, device="cpu").to(like)
                steps = POWER_STEPS
            for _ in range(steps):
                product = self._multiply(v / v.norm().clamp_min(torch.finfo(v.dtype).tiny))
                length = float(product.norm())
                if not 0 < length < float("inf"):
                    break  # the zero operator, or one that is not finite: nothing to learn from it
                v = product
            self._memory |= {
                "power": v,
                "norm": torch.tensor(length, dtype=torch.float64),
                "norm.age": torch.tensor(age + 1),
            }
            self._norm = length
        return self._norm


class Curvature(options.Curvature, Implementation, abc.ABC):
    """Which second derivatives of the training loss are taken."""

    @abc.abstractmethod
    def at(self, point: Point, memory: Tensors) -> Operator:
        """The operator at one point; `memory` carries its norm's estimate between outer steps."""

    def _by(self, product: Product, point: Point, memory: Tensors) -> Operator:
        """The operator whose product is a method of `Point`."""
        curved = point.curved(product)
        batched = point.curved_rows if point.w.is_cuda else None
        return Operator(curved, damping=self.damping, memory=memory, point=point, batched=batched)
