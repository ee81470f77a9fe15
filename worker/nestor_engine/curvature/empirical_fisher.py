"""Second derivatives replaced by products of first ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature.curvature import ProductCurvature
from nestor_engine.curvature.operator import NormState, Operator
from nestor_engine.errors import ConfigInvalid


@dataclass(frozen=True)
class EmpiricalFisher(ProductCurvature):
    """Outer products of gradients, which the slides call Gauss–Newton [1].

    With `per="batch"` the slides' own: g gᵀ for the gradient g = ∂f/∂w of the whole batch, of rank
    one, so that a product costs two passes over a vector, and norm and inverse are known. With
    `per="example"` the mean of g_i g_iᵀ over the batch, plus the exact Hessian of the penalty; the
    criterion must be a mean over examples. Both are positive semidefinite; neither tends to the Hessian
    at a minimum [2].

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    [2] Kunstner, Balles and Hennig (2019), Limitations of the empirical Fisher approximation.
    """

    damping: float = 0.03
    per: Literal["batch", "example"] = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per not in ("batch", "example"):
            raise ConfigInvalid(reason=f"EmpiricalFisher(per={self.per!r}): choose 'batch' or 'example'.")

    def at(self, linearization: Linearization, state: NormState) -> tuple[Operator, NormState]:
        if self.per == "example":
            return self._by(Linearization.fisher_product, linearization, state)
        gradient = linearization.gradient  # of the whole batch, where each of several processes sees a part

        def product(v: Tensor) -> Tensor:
            return gradient * (gradient @ v)

        norm = gradient @ gradient

        def inverse(v: Tensor, shift: float) -> Tensor:
            return (v - product(v) / (norm + shift)) / shift  # Sherman and Morrison; not finite without a shift

        # Never estimated: what the last batch's gradient says of this one's may be nothing at all.
        operator = Operator(
            product,
            damping=self.damping,
            norm=float(norm),
            norm_state=state,
            linearization=linearization,
            inverse=inverse,
        )
        return operator, state
