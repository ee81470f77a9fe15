"""Exact second derivatives."""

from __future__ import annotations

from dataclasses import dataclass

from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature.curvature import ProductCurvature
from nestor_engine.curvature.operator import NormState, Operator


@dataclass(frozen=True)
class Hessian(ProductCurvature):
    """∂²f/∂w∂w, exact. On a network it is indefinite: without damping a series of its powers may diverge."""

    damping: float = 0.0

    def at(self, linearization: Linearization, state: NormState) -> tuple[Operator, NormState]:
        return self._by(Linearization.hessian_product, linearization, state)
