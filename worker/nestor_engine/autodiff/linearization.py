"""The training loss at one (w, λ, batch), from which all derivatives of an outer step are taken.

The training loss is evaluated once, so all products of one linear system see the same dropout mask,
the same augmentation noise and the same buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor.errors import ExampleGradientsUnavailable
from nestor_engine.autodiff.derivatives import Derivatives, Product
from nestor_engine.autodiff.gradients import grad_or_none
from nestor_engine.autodiff.kernels import twice_differentiable
from nestor_engine.autodiff.trace_cache import Linear, TraceCache
from nestor_engine.distributed import WHOLE, Share
from nestor_engine.objective import Batch, Bilevel, PyTree, Tensors
from nestor_engine.tensors.random import repeated, upcoming
from nestor_engine.tensors.ravel import Ravel


class Linearization:
    """The training loss at one (w, λ, batch): its gradient, and its second derivatives along vectors.

    Everything is computed at first use. Products come from the trial's traces if possible, else from
    autograd's graph of the gradient, which lives as long as the linearization. Both give the same bits.

    Attributes:
        w: weights, shape (n,).
        ravel: the correspondence between w and the parameters.
        hparams: hyperparameters, requiring gradients.
        optimizer_state: that of the inner optimizer at w, named vectors of shape (n,); may be empty.
        reach: how far the inner steps so far have moved the weights for each unit of a constant gradient.
        share: the part of the whole batch that this process has. `gradient` and `mixed` are means over the whole
            batch; products and everything else are those of the part.
    """

    def __init__(
        self,
        bilevel: Bilevel,
        ravel: Ravel,
        w: Tensor,
        buffers: Tensors,
        hparams: Tensors,
        batch: Batch,
        optimizer_state: Tensors | None = None,
        reach: Callable[[], float] = lambda: 0.0,
        trace_cache: TraceCache | None = None,
        share: Share = WHOLE,
    ) -> None:
        self.ravel, self.share = ravel, share
        self.optimizer_state, self.reach = optimizer_state or {}, reach
        self.w = w.detach().requires_grad_()
        self.hparams = {name: value.detach().requires_grad_() for name, value in hparams.items()}
        self._bilevel, self._buffers, self._columns = bilevel, buffers, batch
        self._trace_cache = trace_cache
        self._trace: Linear | None = None
        self._draws = upcoming(self.w.device)

    def curved(self, product: Product) -> Callable[[Tensor], Tensor]:
        """`product`, a method of this class, as a function of its vector."""
        if self._trace_cache is not None:
            self._trace = self._trace_cache.get(self, product)
        return self._derivatives(product).product

    @property
    def curved_rows(self) -> Callable[[Tensor], Tensor] | None:
        """(k, n) ↦ the product of each row of the last `curved`, at once; None without a trace."""
        return None if self._trace is None else self._trace.products

    @property
    def traced(self) -> bool:
        """Whether products come from a trace."""
        return self._trace is not None

    @cached_property
    def gradient(self) -> Tensor:
        """∂f/∂w, shape (n,)."""
        return self.share.mean(self._derivatives().gradient)

    def mixed(self, q: Tensor) -> Tensors:
        """(∂²f/∂λ∂w) q for each hyperparameter; zero where ∂f/∂w does not depend on λ."""
        return self.share.means(self._derivatives().mixed(q))

    def _derivatives(self, product: Product | None = None) -> Derivatives:
        return self._trace or _Autograd(self, product or Linearization.hessian_product)

    # --- for a trace: a function of tensors ----------------------------------------------------------

    def leaves(self) -> list[Tensor]:
        """All tensors that the training loss reads: weights, buffers, hyperparameters and batch."""
        return pytree.tree_leaves(self._given())

    def with_leaves(self, leaves: Sequence[Tensor]) -> Linearization:
        """The same problem with other tensors, of the structure of `leaves()`."""
        given = pytree.tree_unflatten(list(leaves), pytree.tree_structure(self._given()))
        return Linearization(self._bilevel, self.ravel, *given)

    def drawing(self) -> AbstractContextManager[None]:
        """A context in which every evaluation makes the same draws, such as one dropout mask."""
        return repeated(self._draws, self.w.device)

    def _given(self) -> tuple[Tensor, Tensors, Tensors, Batch]:
        return self.w, self._buffers, self.hparams, self._columns

    # --- on autograd's graph -------------------------------------------------------------------------

    @cached_property
    def slope(self) -> Tensor:
        """∂f/∂w, shape (n,), itself differentiable in w and λ."""
        return _grad(self._evaluated.criterion + self._evaluated.penalty, self.w, create_graph=True)

    def kept_gradient(self) -> Tensor:
        """∂f/∂w, shape (n,), by autograd, which keeps its graph."""
        return self.slope.detach()

    def kept_mixed(self, q: Tensor) -> Tensors:
        """(∂²f/∂λ∂w) q for each hyperparameter, by autograd; zeros where ∂f/∂w does not depend on λ.

        Args:
            q: shape (n,).
        """
        names = list(self.hparams)
        parts = (
            grad_or_none(self.slope, [self.hparams[n] for n in names], q, retain_graph=True)
            if self.slope.requires_grad
            else [None] * len(names)
        )
        return {
            n: torch.zeros_like(self.hparams[n]) if part is None else part for n, part in zip(names, parts, strict=True)
        }

    def hessian_product(self, v: Tensor) -> Tensor:
        """(∂²f/∂w∂w) v, shape (n,), by reverse over reverse."""
        return _pull(self.slope, self.w, v)

    def gauss_newton_product(self, v: Tensor) -> Tensor:
        """Jᵀ (∂²ℓ/∂o∂o) J v plus the exact Hessian of the penalty, shape (n,).

        J v is computed by differentiating u ↦ Jᵀu, which is linear. So no forward mode is needed, and
        every module can be used.
        """
        return self._pull_outputs(self.criterion_product(self._push(v))) + self.penalty_product(v)

    def fisher_product(self, v: Tensor) -> Tensor:
        """The mean over examples of g_i g_iᵀ v, with g_i = ∂ℓ_i/∂w, plus the exact Hessian of the penalty.

        The criterion is a mean of ℓ_i, so row i of its slope at the outputs is ∂ℓ_i/∂o_i / B, and
        g_iᵀ v is computed from row i of J v: no gradient of a single example is ever formed.
        """
        _, slopes = self.output_slopes
        size = examples_of(slopes)
        rows = [_by_example(slope.detach()) for slope in slopes]
        tangents = [_by_example(tangent) for tangent in self._push(v)]
        along = sum((row * tangent).sum(1, keepdim=True) for row, tangent in zip(rows, tangents, strict=True))
        pulled = [(size * along * row).view_as(slope) for row, slope in zip(rows, slopes, strict=True)]
        return self._pull_outputs(pulled) + self.penalty_product(v)

    def criterion_product(self, tangents: Sequence[Tensor]) -> list[Tensor]:
        """(∂²ℓ/∂o∂o) t for one tangent t of each output's shape; the network is not differentiated.

        Returns:
            One tensor for each output of `output_slopes`, of its shape.
        """
        at, slopes = self.output_slopes
        pairs = [(s, t) for s, t in zip(slopes, tangents, strict=True) if s.requires_grad]
        curved = (
            grad_or_none([s for s, _ in pairs], at, [t for _, t in pairs], retain_graph=True)
            if pairs
            else [None] * len(at)
        )
        return [torch.zeros_like(o) if c is None else c for o, c in zip(at, curved, strict=True)]

    def penalty_product(self, v: Tensor) -> Tensor:
        """The exact Hessian of the penalty times v, shape (n,)."""
        return _pull(self._penalty_gradient, self.w, v)

    def replay(self, params: PyTree) -> list[Tensor]:
        """The outputs that depend on the weights, computed again from `params` with the same draws."""
        with repeated(self._evaluated.draws, self.w.device):
            return _differentiable(self._forward(params, self._evaluated.batch))

    @cached_property
    def _values(self) -> Tensors:
        return self._bilevel.values(self.hparams)

    @cached_property
    def _evaluated(self) -> _Evaluated:
        params = self.ravel.tree(self.w)
        with self.drawing():
            batch = self._bilevel.prepare(self._values, self._columns)
            draws = upcoming(self.w.device)
            outputs = self._forward(params, batch)
            criterion = self._bilevel.criterion(outputs, self._values, batch)
            return _Evaluated(batch, draws, outputs, criterion, self._bilevel.penalty(params, self._values))

    def _forward(self, params: PyTree, batch: Batch) -> PyTree:
        with twice_differentiable():
            return self._bilevel.forward(params, self._buffers, self._values, batch)[0]

    def _push(self, v: Tensor) -> tuple[Tensor, ...]:
        """J v, for each output."""
        _, dual, pulled = self._pullback
        return torch.autograd.grad(pulled, dual, v, retain_graph=True)

    def _pull_outputs(self, duals: list[Tensor]) -> Tensor:
        """Jᵀ u, shape (n,)."""
        return torch.autograd.grad(self._pullback[0], self.w, duals, retain_graph=True)[0]

    @cached_property
    def _pullback(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        outputs = _differentiable(self._evaluated.outputs)
        dual = [torch.zeros_like(o, requires_grad=True) for o in outputs]
        (pulled,) = torch.autograd.grad(outputs, self.w, dual, create_graph=True)
        return outputs, dual, pulled

    @cached_property
    def output_slopes(self) -> tuple[list[Tensor], list[Tensor]]:
        """Detached outputs and the criterion's gradient there, differentiable once more."""
        leaves, spec = pytree.tree_flatten(self._evaluated.outputs)
        free = [o.detach().requires_grad_() if isinstance(o, Tensor) and o.requires_grad else o for o in leaves]
        at = _differentiable(free)
        value = self._bilevel.criterion(pytree.tree_unflatten(free, spec), self._values, self._evaluated.batch)
        slopes = grad_or_none(value, at, create_graph=True)
        return at, [torch.zeros_like(o) if s is None else s for o, s in zip(at, slopes, strict=True)]

    @cached_property
    def _penalty_gradient(self) -> Tensor:
        return _grad(self._evaluated.penalty, self.w, create_graph=True)


@dataclass(frozen=True)
class _Autograd:
    """Derivatives on autograd's graph, which is kept for further products."""

    at: Linearization
    curvature: Product

    @property
    def gradient(self) -> Tensor:
        return self.at.kept_gradient()

    def product(self, v: Tensor) -> Tensor:
        return self.curvature(self.at, v)

    def mixed(self, q: Tensor) -> Tensors:
        return self.at.kept_mixed(q)


@dataclass(frozen=True)
class _Evaluated:
    """The training loss in its parts. `draws`: the generators' states before the forward pass."""

    batch: Batch
    draws: list[Tensor]
    outputs: PyTree
    criterion: Tensor
    penalty: Tensor


def examples_of(outputs: list[Tensor]) -> int:
    """The number of examples B in outputs of shape (B, …).

    Raises:
        ProblemInvalid: the outputs do not all have one row per example.
    """
    rows = {o.shape[:1] for o in outputs}
    if len(rows) != 1 or not (first := rows.pop()):
        raise ExampleGradientsUnavailable(shapes=", ".join(str(tuple(o.shape)) for o in outputs))
    return first[0]


def _by_example(o: Tensor) -> Tensor:
    """(B, outputs), of outputs of shape (B,) too."""
    return o.reshape(len(o), -1)


def _differentiable(tree: PyTree) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.requires_grad]


def _grad(value: Tensor, at: Tensor, *, create_graph: bool = False) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(at)
    (slope,) = grad_or_none(value, at, create_graph=create_graph, retain_graph=True)
    return torch.zeros_like(at) if slope is None else slope


def _pull(slope: Tensor, at: Tensor, v: Tensor) -> Tensor:
    """The product of the Jacobian of `slope` with v, for a symmetric Jacobian."""
    if not slope.requires_grad:
        return torch.zeros_like(v)
    (product,) = grad_or_none(slope, at, v, retain_graph=True)
    return torch.zeros_like(v) if product is None else product
