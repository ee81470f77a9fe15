"""The derivatives of the training loss at one linearization, and what a trace needs to compute them.

`linearization.py` computes them with autograd's graph, `trace_cache.py` with a graph that is traced once. Both use
these protocols as types, so that neither imports the other's classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from nestor_engine.objective import Tensors

# A method of `Linearization`: (linearization, v) ↦ C v for v of shape (n,). Its name is part of a saved key.
Product = Callable[[Any, Tensor], Tensor]


class Derivatives(Protocol):
    """First and second derivatives of the training loss f at one linearization."""

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
    """A linearization as a function of tensors, so that it can be traced.

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
        """All tensors that the training loss reads: weights, buffers, hyperparameters and batch."""
        ...

    def with_leaves(self, leaves: Sequence[Tensor]) -> Traceable:
        """The same problem with other tensors."""
        ...

    def drawing(self) -> AbstractContextManager[None]:
        """A context in which every evaluation makes the random draws of this linearization."""
        ...
