"""The interface of curvatures: an operator at each outer step, and a state from one outer step to the next."""

from __future__ import annotations

import abc
from typing import Generic, TypeVar

from nestor import options
from nestor_engine.autodiff.derivatives import Product
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature.operator import NormState, Operator, Shift
from nestor_engine.implementations import Implementation
from nestor_engine.tensors.part_state import PartState

S = TypeVar("S", bound=PartState)

LEAST_DAMPING = 1e-4  # of "auto": below it, rounding and the noise of batches decide
WITHOUT_TRAINING = 0.03  # the damping "auto" where no inner step was taken


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

    def damping_at(self, linearization: Linearization) -> Shift:
        """The damping at one outer step.

        "auto" stands for the end of the training. From weights that have come to rest, k steps of size α change the
        response to Σ_{j<k} α (I − αC)^j, which reaches along an eigenvector of C with the eigenvalue c as far as
        (1 − (1 − αc)^k) / c ≈ 1 / (c + 1/(αk)) [1]. So 1/(αk) times the identity is added, where αk is `reach`.

        [1] Ali, Kolter and Tibshirani (2019), A continuous-time view of early stopping for least squares.
        """
        if self.damping != "auto":
            return Shift(self.damping)
        reach = linearization.reach()
        return Shift(LEAST_DAMPING, least=1 / reach) if reach else Shift(WITHOUT_TRAINING)

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
            damping=self.damping_at(linearization),
            norm_state=state,
            linearization=linearization,
            batched=linearization.curved_rows if linearization.w.is_cuda else None,
        )
        return operator, state
