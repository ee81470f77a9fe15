"""Exact second derivatives."""

from __future__ import annotations

from nestor import options
from nestor_engine.autodiff.linearization import Point
from nestor_engine.curvature.operator import Curvature, Operator
from nestor_engine.objective import Tensors


class Hessian(options.Hessian, Curvature):
    """∂²f/∂w∂w, exact. On a network it is indefinite: without damping a series of its powers may diverge."""

    def at(self, point: Point, memory: Tensors) -> Operator:
        return self._by(Point.hessian_product, point, memory)
