"""How to invert the curvature: solvers, and preconditioners that are kept from one outer step to the next."""

from __future__ import annotations

from typing import Annotated, ClassVar

from nestor.options.base import (
    MAX_SIZE,
    Auto,
    Count,
    NonNegative,
    Option,
    Positive,
    Real,
    Size,
    Whole,
    about,
    family,
    option,
)

_DAMPING = about("of a curvature that has none of its own, relative to its norm; 0 leaves it undamped")
_RTOL = about("stop when ‖b − A x‖ ≤ rtol ‖b‖")


@family
class Preconditioner(Option):
    """An approximate inverse of the curvature, symmetric and positive definite."""

    expected: ClassVar[str] = "a preconditioner, such as NystromSketch(rank=20)"
    needs_optimizer_state: ClassVar[frozenset[str]] = frozenset()  # the tensors of it that it reads


@option
class NystromSketch(Preconditioner):
    """A randomized low-rank approximation of the curvature as a preconditioner [1].

    [1] Frangella, Tropp and Udell (2021), Randomized Nyström preconditioning.
    """

    rank: Annotated[Size, about("products that a sketch takes, and vectors that it keeps")] = 50
    refresh: Annotated[Count, about("outer steps between two sketches", unit="outer steps")] = 10


@option
class AdamDiagonal(Preconditioner):
    """The root of the inner optimizer's running mean of squared gradients, at no product but that of the norm.

    Needs an inner optimizer that keeps such a mean: Adam, AdamW or RMSprop.
    """

    needs_optimizer_state: ClassVar[frozenset[str]] = frozenset({"square"})


@family
class Solver(Option):
    """Approximates A⁻¹ b for a symmetric operator A."""

    expected: ClassVar[str] = "a solver, such as Neumann(terms=3)"


@family
class ColdSolver(Solver):
    """A solver that `WarmStarted` can start from where the outer step before left off."""


@option
class Identity(ColdSolver):
    """A⁻¹ ≈ I: T1–T2 [1], the first term of the series.

    [1] Luketina et al. (2016), Scalable gradient-based tuning of continuous regularization hyperparameters.
    """


@option
class Neumann(ColdSolver):
    """The truncated Neumann series of the inverse [1].

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """

    terms: Annotated[Whole, about("products of the series; 0 is one step", ge=0, le=MAX_SIZE)] = 2
    alpha: Annotated[Positive | Auto, about("step size; 'auto': 1 / the curvature's norm, which is estimated")] = "auto"


@option
class ConjugateGradient(ColdSolver):
    """Conjugate gradients [1]; with a warm start, the solver of HOAG [2].

    [1] Hestenes and Stiefel (1952), Methods of conjugate gradients for solving linear systems.
    [2] Pedregosa (2016), Hyperparameter optimization with approximate gradient.
    """

    steps: Annotated[Size, about("at most so many products, one each")] = 10
    damping: Annotated[NonNegative, _DAMPING] = 0.03
    rtol: Annotated[NonNegative, _RTOL] = 1e-6


@option
class PreconditionedCG(ColdSolver):
    """Conjugate gradients on a system that a preconditioner has made rounder."""

    steps: Annotated[Size, about("at most so many products, besides those of the preconditioner")] = 4
    preconditioner: Annotated[
        Preconditioner, about("an approximate inverse that is cheap to apply, kept between outer steps")
    ] = NystromSketch()
    damping: Annotated[NonNegative, _DAMPING] = 0.03
    rtol: Annotated[NonNegative, _RTOL] = 1e-6


@option
class Richardson(ColdSolver):
    """Richardson's iteration with a preconditioner [1]: a few short steps, which average the batches away.

    It needs a warm start: `WarmStarted(Richardson())`.

    [1] Richardson (1911), The approximate arithmetical solution by finite differences of physical problems.
    """

    steps: Annotated[Size, about("on the same batch, one product each")] = 1
    rate: Annotated[
        Real, about("the smaller, the more batches are averaged, and the longer the solution lags", gt=0, le=1)
    ] = 0.2
    preconditioner: Annotated[
        Preconditioner, about("an approximate inverse, up to scale; what it leaves out is learned slowly")
    ] = NystromSketch(rank=20, refresh=20)


@option
class Direct(ColdSolver):
    """Builds the matrix, one product a row, and factorizes it: for problems of a few thousand weights [1].

    [1] Bengio (2000), Gradient-based optimization of hyperparameters.
    """


@option
class Nystrom(ColdSolver):
    """The inverse of a randomized low-rank approximation plus a multiple of the identity [1].

    [1] Hataya and Yamada (2023), Nyström method for accurate and scalable implicit differentiation.
    """

    rank: Annotated[Size, about("products that the sketch takes, every outer step")] = 20
    rho: Annotated[Positive, about("the multiple of the identity, relative to the curvature's norm")] = 0.01


@option
class WarmStarted(Solver):
    """Starts from the solution of the outer step before [1, 2]; the weights move little between two of them.

    [1] Pedregosa (2016), Hyperparameter optimization with approximate gradient (HOAG).
    [2] Dagréou et al. (2022), A framework for bilevel optimization (SOBA).
    """

    solver: Annotated[ColdSolver, about("the solver that is started there")] = Neumann()
