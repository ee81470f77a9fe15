"""Outer products of gradients in place of second derivatives."""

from __future__ import annotations

from torch import Tensor

from nestor import options
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature.curvature import ProductCurvature
from nestor_engine.curvature.operator import NormState, Operator


class EmpiricalFisher(options.EmpiricalFisher, ProductCurvature):
    """Outer products of gradients, which the slides call Gauss–Newton [1].

    With `per="batch"`, as in the slides: g gᵀ for the gradient g = ∂f/∂w of the whole batch. It has rank
    one, so a product costs two passes over a vector, and norm and inverse are known. With
    `per="example"`: the mean of g_i g_iᵀ over the batch, plus the exact Hessian of the penalty; the
    criterion must be a mean over examples. Both are positive semidefinite; neither tends to the Hessian
    at a minimum [2].

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    [2] Kunstner, Balles and Hennig (2019), Limitations of the empirical Fisher approximation.
    """

    def at(self, linearization: Linearization, state: NormState) -> tuple[Operator, NormState]:
        """The operator of one outer step. With `per="batch"` norm and inverse are exact and `state` is unchanged."""
        if self.per == "example":
            return self._by(Linearization.fisher_product, linearization, state)
        gradient = linearization.gradient  # of the whole batch, also with several processes

        def product(v: Tensor) -> Tensor:
            return gradient * (gradient @ v)

        norm = gradient @ gradient

        def inverse(v: Tensor, shift: float) -> Tensor:
            return (v - product(v) / (norm + shift)) / shift  # Sherman and Morrison; not finite without a shift

        # The norm is exact: an estimate from the last batch may say nothing about the gradient of this one.
        operator = Operator(
            product,
            damping=self.damping_at(linearization),
            norm=float(norm),
            norm_state=state,
            linearization=linearization,
            inverse=inverse,
        )
        return operator, state
