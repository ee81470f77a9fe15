"""Exact second derivatives."""

from __future__ import annotations

from nestor import options
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature.curvature import ProductCurvature
from nestor_engine.curvature.operator import NormState, Operator


class Hessian(options.Hessian, ProductCurvature):
    """∂²f/∂w∂w, exact. On a network it is indefinite: without damping a series of its powers may diverge."""

    def at(self, linearization: Linearization, state: NormState) -> tuple[Operator, NormState]:
        """The operator of ∂²f/∂w∂w, which may be indefinite. Its state is the estimate of the norm."""
        return self._by(Linearization.hessian_product, linearization, state)
