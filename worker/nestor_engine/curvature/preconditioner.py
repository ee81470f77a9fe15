"""What a preconditioner promises: an approximate inverse that is cheap to apply."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from torch import Tensor

from nestor_engine.curvature.operator import Operator
from nestor_engine.tensors.part_state import PartState

S = TypeVar("S", bound=PartState)


@dataclass(frozen=True)
class Preconditioner(abc.ABC, Generic[S]):
    """Prepares r ↦ M⁻¹ r with M ≈ A, symmetric and positive definite, and keeps what serves the next outer step."""

    @property
    def supports_sharding(self) -> bool:
        """Whether several processes can compute it together, each on its part of a batch."""
        return True

    @property
    def needs_optimizer_state(self) -> frozenset[str]:
        """Which tensors of the inner optimizer's state it reads."""
        return frozenset()

    @abc.abstractmethod
    def init(self) -> S:
        """The state before the first outer step."""

    @abc.abstractmethod
    def prepare(self, operator: Operator, like: Tensor, state: S) -> tuple[Callable[[Tensor], Tensor], S]:
        """The application of M⁻¹ to vectors of the shape of `like`, (n,), and the state for the next outer step."""

    def as_preconditioner(self) -> Self:
        return self


class Preconditions(Protocol):
    """What a solver accepts as a preconditioner: a `Preconditioner`, or a curvature that has one, such as `KFAC`."""

    def as_preconditioner(self) -> Preconditioner[Any]: ...
