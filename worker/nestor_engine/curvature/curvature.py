"""The interface of curvatures: an operator at each outer step, and a state from one outer step to the next."""

from __future__ import annotations

import abc
from typing import Generic, TypeVar

from nestor import options
from nestor_engine.autodiff.derivatives import Product
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature.operator import NormState, Operator
from nestor_engine.implementations import Implementation
from nestor_engine.tensors.part_state import PartState

S = TypeVar("S", bound=PartState)


class Curvature(options.Curvature, Implementation, abc.ABC, Generic[S]):
    """What stands for the Hessian of the training loss."""

    @abc.abstractmethod
    def init(self) -> S:
        """The state before the first outer step."""

    @abc.abstractmethod
    def at(self, linearization: Linearization, state: S) -> tuple[Operator, S]:
        """The operator of one outer step on vectors of shape (n,), and the state for `settle`."""

    def settle(self, operator: Operator, state: S) -> S:
        """The state for the next outer step. Call it after the solver has used `operator`, which `at` returned."""
        del operator
        return state

    def operator(self, linearization: Linearization) -> Operator:
        """The operator without a state from earlier outer steps."""
        return self.at(linearization, self.init())[0]


class ProductCurvature(Curvature[NormState]):
    """A curvature that is given by its products, with an estimated norm."""

    def init(self) -> NormState:
        """The state before the first outer step: no estimate of the norm."""
        return NormState()

    def settle(self, operator: Operator, state: NormState) -> NormState:
        """The estimate of the norm, which `operator` may have refreshed."""
        return operator.norm_state

    def _by(self, product: Product, linearization: Linearization, state: NormState) -> tuple[Operator, NormState]:
        """The operator whose product is the method `product` of `Linearization`."""
        curved = linearization.curved(product)
        operator = Operator(
            curved,
            damping=self.damping,
            norm_state=state,
            linearization=linearization,
            batched=linearization.curved_rows if linearization.w.is_cuda else None,
        )
        return operator, state
