"""What is asked of the training loss at one point, and what a trace must know of it to answer in autograd's place.

`linearization.py` answers on autograd's kept graph, `trace_cache.py` by a graph that is traced once. Neither needs the
other's classes for their types: both are written against these protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from nestor_engine.objective import Tensors

# A method of `Linearization`: (linearization, v) ↦ C v for v of shape (n,). Its name is a part of a kept trace's key.
Product = Callable[[Any, Tensor], Tensor]


class Derivatives(Protocol):
    """First and second derivatives of the training loss f at one point."""

    @property
    def gradient(self) -> Tensor:
        """∂f/∂w, shape (n,)."""
        ...

    def product(self, v: Tensor) -> Tensor:
        """C v, shape (n,)."""
        ...

    def mixed(self, q: Tensor) -> Tensors:
        """(∂²f/∂λ∂w) q for each hyperparameter."""
        ...


class Traceable(Protocol):
    """A point as a function of tensors, so that it can be traced.

    Attributes:
        w: weights, shape (n,).
        hparams: hyperparameters, requiring gradients.
    """

    w: Tensor
    hparams: Tensors

    def kept_gradient(self) -> Tensor:
        """∂f/∂w, shape (n,), by autograd, which keeps its graph."""
        ...

    def kept_mixed(self, q: Tensor) -> Tensors:
        """(∂²f/∂λ∂w) q for each hyperparameter, by autograd."""
        ...

    def leaves(self) -> list[Tensor]:
        """All tensors that the training loss reads here."""
        ...

    def with_leaves(self, leaves: Sequence[Tensor]) -> Traceable:
        """The same problem at another point."""
        ...

    def drawing(self) -> AbstractContextManager[None]:
        """Draw what this point draws, however often it is evaluated."""
        ...
