"""Approximate inverses of the curvature that are cheap to apply, and kept from one outer step to the next."""

from __future__ import annotations

from typing import Annotated, ClassVar

from nestor.options.base import Count, Option, Size, about, family, option


@family
class Preconditioner(Option):
    """An approximate inverse of the curvature, symmetric and positive definite."""

    expected: ClassVar[str] = "a preconditioner, such as NystromSketch(rank=20)"
    needs_squares: ClassVar[bool] = False  # whether it reads the inner optimizer's mean of squared gradients


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

    needs_squares: ClassVar[bool] = True
