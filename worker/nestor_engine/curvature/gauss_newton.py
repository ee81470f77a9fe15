"""Second derivatives without those of the network itself."""

from __future__ import annotations

from nestor import options
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature.curvature import ProductCurvature
from nestor_engine.curvature.operator import NormState, Operator


class GaussNewton(options.GaussNewton, ProductCurvature):
    """Jᵀ (∂²ℓ/∂o∂o) J with J = ∂o/∂w, plus the exact Hessian of what reads the weights directly [1].

    Positive semidefinite when the criterion is convex in the outputs and the penalty in the weights.

    [1] Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent.
    """

    def at(self, linearization: Linearization, state: NormState) -> tuple[Operator, NormState]:
        """The operator Jᵀ (∂²ℓ/∂o∂o) J plus the exact Hessian of the penalty. Its state is the estimate of the norm."""
        return self._by(Linearization.gauss_newton_product, linearization, state)
