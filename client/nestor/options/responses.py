"""How the hypergradient comes about: how the weights respond to the hyperparameters."""

from __future__ import annotations

from typing import Annotated, ClassVar

from nestor.options.base import NonNegative, Option, Positive, Real, Size, about, family, option
from nestor.options.curvatures import Curvature, GaussNewton
from nestor.options.solvers import Solver, WarmStarted


@family
class Response(Option):
    """A way to the hypergradient."""

    expected: ClassVar[str] = "a response, such as Implicit(GaussNewton(), Neumann(terms=3)) or Unrolled(steps=5)"
    tunes: ClassVar[bool] = True  # whether outer steps move the hyperparameters

    @property
    def unrolls(self) -> int:
        """How many inner steps before an outer step it differentiates through."""
        return 0


@family
class Tuning(Response):
    """A response whose hypergradient can move the hyperparameters."""


@option
class Implicit(Tuning):
    """The implicit function theorem [1]: dF/dλ = ∂g/∂λ − (∂²f/∂λ∂w) q with H q = ∂g/∂w.

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """

    curvature: Annotated[Curvature, about("stands for H")] = GaussNewton()
    solver: Annotated[Solver, about("stands for its inverse")] = WarmStarted()


@option
class Unrolled(Tuning):
    """Reverse mode through the last inner steps, of any of Nestor's optimizers [1].

    [1] Shaban et al. (2019), Truncated back-propagation for bilevel optimization.
    """

    steps: Annotated[
        Size, about("inner steps to go back, at most those between two outer steps", unit="inner steps")
    ] = 5

    @property
    def unrolls(self) -> int:
        """All of its `steps`."""
        return self.steps


@option
class Hypernetwork(Tuning):
    """A self-tuning network in weight space [1], trained by differences of two gradients: no second derivatives.

    [1] MacKay et al. (2019), Self-tuning networks: bilevel optimization using structured best-response functions.
    """

    rank: Annotated[Size, about("directions of the hyperparameters that the weights answer to")] = 8
    scale: Annotated[Positive, about("of the perturbations, in units of the hyperparameters as they are optimized")] = (
        0.1
    )
    steps: Annotated[Size, about("updates of the network in each outer step")] = 5
    lr: Annotated[Real, about("relative to 1 / the curvature's norm; the updates diverge beyond 2", gt=0, lt=2)] = 1.0
    damping: Annotated[NonNegative, about("added multiple of the identity, relative to the curvature's norm")] = 0.03


@option
class DirectOnly(Tuning):
    """∂g/∂λ alone, as if the weights did not answer: zero for most hyperparameters."""


@option
class Frozen(Response):
    """The hyperparameters stay as they are, and the weights train under them."""

    tunes: ClassVar[bool] = False
    measured: Annotated[
        Tuning | None,
        about("any other response, whose hypergradient is computed and moves nothing; null: none is computed"),
    ] = None

    @property
    def unrolls(self) -> int:
        """As many as what it measures."""
        return 0 if self.measured is None else self.measured.unrolls
