"""What a curvature promises: an operator at each outer step, and a state from one outer step to the next."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Generic, TypeVar

from nestor_engine.autodiff.derivatives import Product
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature.operator import NormState, Operator
from nestor_engine.errors import ConfigInvalid
from nestor_engine.tensors.part_state import PartState

S = TypeVar("S", bound=PartState)


@dataclass(frozen=True)
class Curvature(abc.ABC, Generic[S]):
    """Which second derivatives of the training loss are taken.

    Args:
        damping: added multiple of the identity, relative to the operator's norm. It says how far the
            response may reach into flat directions: a statistical choice, not a numerical one.
    """

    damping: float

    def __post_init__(self) -> None:
        if not self.damping >= 0:
            raise ConfigInvalid(reason=f"{type(self).__name__}(damping={self.damping}): damping may not be negative.")

    @property
    def supports_sharding(self) -> bool:
        """Whether several processes can compute it together, each on its part of a batch."""
        return True

    @abc.abstractmethod
    def init(self) -> S:
        """The state before the first outer step."""

    @abc.abstractmethod
    def at(self, linearization: Linearization, state: S) -> tuple[Operator, S]:
        """The operator of one outer step, and the state after it was made."""

    def settle(self, operator: Operator, state: S) -> S:
        """The state for the next outer step, once `operator` of `at` was used."""
        del operator
        return state

    def operator(self, linearization: Linearization) -> Operator:
        """The operator with nothing kept from earlier outer steps."""
        return self.at(linearization, self.init())[0]


@dataclass(frozen=True)
class ProductCurvature(Curvature[NormState]):
    """A curvature known by its products, whose norm is estimated."""

    def init(self) -> NormState:
        return NormState()

    def settle(self, operator: Operator, state: NormState) -> NormState:
        return operator.norm_state

    def _by(self, product: Product, linearization: Linearization, state: NormState) -> tuple[Operator, NormState]:
        """The operator whose product is a method of `Linearization`."""
        curved = linearization.curved(product)
        operator = Operator(
            curved,
            damping=self.damping,
            norm_state=state,
            linearization=linearization,
            batched=linearization.curved_rows if linearization.w.is_cuda else None,
        )
        return operator, state
