"""A symmetric operator on the weights, with its damping and an estimate of its norm."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestor.errors import PreconditionerUnavailable
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.distributed import WHOLE, Share
from nestor_engine.tensors.linalg import vector_norm
from nestor_engine.tensors.part_state import PartState, kept_as
from nestor_engine.tensors.random import derive_seed

ROWS = 16  # vectors in a batched product: each needs the memory of one forward pass
POWER_STEPS = 10  # products that the first estimate of the norm takes
NORM_SERVES = 4  # outer steps between products that refresh the estimate


class CountedProduct:
    """v ↦ C v of the whole batch, of which each process sees a part; counts the products.

    Args:
        batched: (k, n) ↦ the product of each row, at once. It is faster on a GPU. On a CPU rows one by one are as
            fast, and have the same bits as single products.

    Attributes:
        rows_at_a_time: vectors that are multiplied at once.
        count: how many products were taken.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        batched: Callable[[Tensor], Tensor] | None = None,
        share: Share = WHOLE,
    ) -> None:
        self._product, self._batched, self._share = product, batched, share
        self.rows_at_a_time = ROWS if batched else 1
        self.count = 0

    def __call__(self, v: Tensor) -> Tensor:
        """The product with v of shape (n,), or with each row when v has shape (k, n)."""
        if v.ndim == 1:
            self.count += 1
            return self._share.mean(self._product(v))
        if self._batched is None:
            return torch.stack([self(row) for row in v])
        self.count += len(v)
        return self._share.mean(torch.cat([self._batched(rows) for rows in torch.split(v, self.rows_at_a_time)]))


@dataclass(frozen=True)
class NormState(PartState):
    """The state of an estimate of ‖C‖ between outer steps.

    Attributes:
        vector: the last iterate of the power iteration, shape (n,); None before the first estimate.
        length: the estimate.
        age: outer steps that have used it.
    """

    vector: Tensor | None = field(default=None, metadata=kept_as("power"))
    length: float = field(default=0.0, metadata=kept_as("norm"))
    age: int = field(default=0, metadata=kept_as("norm.age"))

    def refreshed(self, multiply: Callable[[Tensor], Tensor], like: Tensor) -> NormState:
        """The state for one more outer step, by a power iteration from where the last one stopped.

        The first estimate takes `POWER_STEPS` products. After it, one product in every `NORM_SERVES` outer steps is
        enough.

        Args:
            like: any vector of the operator's shape (n,), dtype and device.
        """
        v, length = self.vector, self.length
        steps = 0 if self.age % NORM_SERVES and length else 1
        if v is None:
            generator = torch.Generator().manual_seed(derive_seed(0, "power", like.numel()))
            v = torch.randn(like.shape, generator=generator, dtype=torch.float64, device="cpu").to(like)
            steps = POWER_STEPS
        for _ in range(steps):
            product = multiply(v / vector_norm(v).clamp_min(torch.finfo(v.dtype).tiny))
            length = float(vector_norm(product))
            if not 0 < length < float("inf"):
                break  # the operator is zero or not finite
            v = product
        return NormState(v, length, self.age + 1)


class Norm:
    """‖C‖: known, or estimated at the first call."""

    def __init__(self, multiply: Callable[[Tensor], Tensor], known: float | None, state: NormState) -> None:
        self._multiply, self._value = multiply, known
        self.state = state

    def __call__(self, like: Tensor) -> float:
        if self._value is None:
            self.state = self.state.refreshed(self._multiply, like)
            self._value = self.state.length
        return self._value


@dataclass(frozen=True)
class Shift:
    """The multiple of the identity that damping adds to an operator.

    Attributes:
        relative: to the operator's norm.
        least: it is at least this one, whatever the norm.
    """

    relative: float = 0.0
    least: float = 0.0

    def of(self, norm: float) -> float:
        """The multiple for an operator of this norm."""
        return max(self.least, self.relative * norm)


class Operator:
    """v ↦ (C + δ‖C‖ I) v for vectors of shape (n,).

    The damping δ is relative to the spectral norm ‖C‖, so that one default fits problems of every
    scale. The norm is known, or estimated by power iteration at the first use.

    Args:
        product: v ↦ C v.
        damping: δ, or what else decides about the multiple of the identity.
        norm: ‖C‖, if known.
        norm_state: what the estimate of the norm starts from, if the norm is not known.
        linearization: the origin of C, for a preconditioner that needs more than products.
        inverse: (v, s) ↦ (C + s I)⁻¹ v, if it has a closed form.
        batched: (k, n) ↦ the product of each row, at once.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        *,
        damping: float | Shift = 0.0,
        norm: float | None = None,
        norm_state: NormState | None = None,
        linearization: Linearization | None = None,
        inverse: Callable[[Tensor, float], Tensor] | None = None,
        batched: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        share = WHOLE if linearization is None else linearization.share
        self._multiply = CountedProduct(product, batched, share)
        self._norm = Norm(self._multiply, norm, norm_state or NormState())
        self._shift = damping if isinstance(damping, Shift) else Shift(damping)
        self._linearization, self._inverse = linearization, inverse

    def damped(self, damping: float) -> Operator:
        """This operator if it has a damping of its own, else a copy with `damping`.

        Both count the same products and share the estimate of the norm.
        """
        if self._shift != Shift() or not damping:
            return self
        operator = copy.copy(self)
        operator._shift = Shift(damping)
        return operator

    @property
    def products(self) -> int:
        """Products of C taken so far, those for the norm included."""
        return self._multiply.count

    @property
    def rows_at_a_time(self) -> int:
        """Vectors that are multiplied at once, so that a caller who has many can pass as many."""
        return self._multiply.rows_at_a_time

    @property
    def norm_state(self) -> NormState:
        """What the next outer step's estimate of the norm starts from."""
        return self._norm.state

    @property
    def linearization(self) -> Linearization:
        """The linearization from which the curvature was taken.

        Raises:
            PreconditionerUnavailable: the operator is a bare matrix.
        """
        if self._linearization is None:
            raise PreconditionerUnavailable()
        return self._linearization

    def __call__(self, v: Tensor) -> Tensor:
        """The damped product; of each row when v has shape (k, n)."""
        shift = self.shift(v[0] if v.ndim > 1 else v)
        product = self.undamped(v)
        return product.add(v, alpha=shift) if shift else product

    def undamped(self, v: Tensor) -> Tensor:
        """The product without damping; of each row when v has shape (k, n)."""
        return self._multiply(v)

    def shift(self, like: Tensor) -> float:
        """The multiple of the identity that damping adds, for vectors of the shape of `like`."""
        return self._shift.of(self._norm(like)) if self._shift != Shift() else 0.0

    def norm(self, like: Tensor) -> float:
        """An estimate of the largest |eigenvalue|, from below, damping included."""
        return self._norm(like) + self.shift(like)

    def inverse(self, b: Tensor) -> Tensor | None:
        """A⁻¹ b, damping included, in closed form; not finite if A is singular. None if there is no closed form."""
        return None if self._inverse is None else self._inverse(b, self.shift(b))
