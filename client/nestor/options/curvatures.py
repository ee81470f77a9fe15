"""What to invert: which second derivatives of the training loss are taken."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from nestor.options.base import Auto, Momentum, NonNegative, Option, about, family, option
from nestor.options.solvers import Preconditioner

Damping = Annotated[
    NonNegative | Auto,
    about(
        "added multiple of the identity, relative to the curvature's norm; 'auto': 1 / the sum of the step sizes that "
        "trained the weights, because a training this long does not reach further either"
    ),
]


@family
class Curvature(Option):
    """Which second derivatives of the training loss are taken.

    The damping says how far the response may reach into flat directions: a statistical choice, not a numerical one.
    """

    expected: ClassVar[str] = "a curvature, such as GaussNewton()"

    damping: Damping


@option
class Hessian(Curvature):
    """∂²f/∂w∂w, exact. On a network it is indefinite: without damping a series of its powers may diverge."""

    damping: Damping = 0.0


@option
class GaussNewton(Curvature):
    """Jᵀ (∂²ℓ/∂o∂o) J with J = ∂o/∂w, plus the exact Hessian of what reads the weights directly [1].

    [1] Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent.
    """

    damping: Damping = 0.03


@option
class EmpiricalFisher(Curvature):
    """Outer products of gradients [1].

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """

    damping: Damping = 0.03
    per: Annotated[
        Literal["batch", "example"], about("outer product of the batch's gradient, or mean over the examples'")
    ] = "batch"


@option
class KFAC(Curvature, Preconditioner):
    """Gauss–Newton with a Kronecker product for every layer, and an inverse in closed form [1].

    Also a preconditioner. It draws its factors from whole batches, so it runs on one device.

    [1] Martens and Grosse (2015), Optimizing neural networks with Kronecker-factored approximate curvature.
    """

    expected: ClassVar[str] = ""
    supports_sharding: ClassVar[bool] = False

    damping: Damping = 0.03
    decay: Annotated[Momentum, about("of the factors' running averages; 0 keeps this step's factors only")] = 0.95
    fisher: Annotated[
        Literal["sampled", "exact", "empirical"],
        about("what is sent back: a random root of the criterion's curvature, each of its columns, or the gradient"),
    ] = "sampled"
