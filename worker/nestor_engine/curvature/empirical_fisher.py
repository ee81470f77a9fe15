"""Second derivatives replaced by products of first ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nestor_engine.bilevel import Tensors
from nestor_engine.curvature.operator import Curvature, Operator
from nestor_engine.errors import ConfigInvalid
from nestor_engine.point import Point


@dataclass(frozen=True)
class EmpiricalFisher(Curvature):
    """Outer products of gradients, which the slides call Gauss–Newton [1].

    With `per="batch"` the slides' own: g gᵀ for the gradient g = ∂f/∂w of the whole batch, of rank
    one, so that a product costs two passes over a vector. With `per="example"` the mean of g_i g_iᵀ
    over the batch, plus the exact Hessian of the penalty; the criterion must be a mean over examples.
    Both are positive semidefinite; neither tends to the Hessian at a minimum [2].

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    [2] Kunstner, Balles and Hennig (2019), Limitations of the empirical Fisher approximation.
    """

    damping: float = 0.03
    per: Literal["batch", "example"] = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per not in ("batch", "example"):
            raise ConfigInvalid(reason=f"EmpiricalFisher(per={self.per!r}): choose 'batch' or 'example'.")

    def at(self, point: Point, memory: Tensors) -> Operator:
        return self._by(Point.fisher_product if self.per == "example" else Point.gradient_product, point, memory)
