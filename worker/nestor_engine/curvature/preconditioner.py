"""The interface of preconditioners: approximate inverses that are cheap to apply."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from torch import Tensor

from nestor import options
from nestor_engine.curvature.operator import Operator
from nestor_engine.tensors.part_state import PartState

S = TypeVar("S", bound=PartState)


class Preconditioner(abc.ABC, Generic[S]):
    """Prepares r ↦ M⁻¹ r with M ≈ A, symmetric and positive definite, with a state for the next outer step."""

    @abc.abstractmethod
    def init(self) -> S:
        """The state before the first outer step."""

    @abc.abstractmethod
    def prepare(self, operator: Operator, like: Tensor, state: S) -> tuple[Callable[[Tensor], Tensor], S]:
        """The application of M⁻¹ to vectors of the shape of `like`, (n,), and the state for the next outer step."""

    def as_preconditioner(self) -> Self:
        """Itself; see `Preconditions`."""
        return self


class Preconditions(options.Preconditioner, abc.ABC):
    """The option that a solver accepts: a `Preconditioner`, or a curvature that provides one, such as `KFAC`."""

    @abc.abstractmethod
    def as_preconditioner(self) -> Preconditioner[Any]:
        """The preconditioner, whose state is kept between outer steps."""
