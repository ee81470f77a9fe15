"""One point (w, λ, batch) at which everything of an outer step is differentiated.

The training loss is evaluated once, so all products of one linear system see the same dropout mask,
the same augmentation noise and the same buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from nestor_engine.bilevel import Batch, Bilevel, PyTree, Tensors
from nestor_engine.flat import Ravel
from nestor_engine.seeding import repeated, upcoming


def twice_differentiable() -> AbstractContextManager[object]:
    """Keep torch from fused attention kernels, which have a first derivative only."""
    return sdpa_kernel(SDPBackend.MATH)


class Point:
    """The training loss at one point, with the graph of its first derivatives kept.

    Attributes:
        w: weights, shape (n,).
        ravel: between w and the parameters.
        hparams: hyperparameters, requiring gradients.
        slots: what the inner optimizer keeps there; empty if none brought the weights.
        gradient: ∂f/∂w, shape (n,), itself differentiable in w and λ.
    """

    def __init__(
        self,
        bilevel: Bilevel,
        ravel: Ravel,
        w: Tensor,
        buffers: Tensors,
        hparams: Tensors,
        batch: Batch,
        slots: Tensors | None = None,
    ) -> None:
        self.ravel = ravel
        self.slots = slots or {}
        self.w = w.detach().requires_grad_()
        self.hparams = {name: value.detach().requires_grad_() for name, value in hparams.items()}
        self._bilevel, self._buffers = bilevel, buffers
        params = ravel.tree(self.w)
        self._batch = bilevel.prepare(self.hparams, batch)
        self._draws = upcoming(self.w.device)
        self._outputs = self._forward(params)
        self._criterion = bilevel.criterion(self._outputs, self.hparams, self._batch)
        self._penalty = bilevel.penalty(params, self.hparams)

    @cached_property
    def gradient(self) -> Tensor:
        return _grad(self._criterion + self._penalty, self.w, create_graph=True)

    def mixed(self, q: Tensor) -> Tensors:
        """(∂²f/∂λ∂w) q for each hyperparameter; zero where λ does not meet the weights' gradient."""
        names = list(self.hparams)
        parts = (
            torch.autograd.grad(
                self.gradient, [self.hparams[n] for n in names], q, retain_graph=True, allow_unused=True
            )
            if self.gradient.requires_grad
            else [None] * len(names)
        )
        return {
            n: torch.zeros_like(self.hparams[n]) if part is None else part for n, part in zip(names, parts, strict=True)
        }

    def hessian_product(self, v: Tensor) -> Tensor:
        """(∂²f/∂w∂w) v, shape (n,), by reverse over reverse on the kept graph."""
        return _pull(self.gradient, self.w, v)

    def gauss_newton_product(self, v: Tensor) -> Tensor:
        """Jᵀ (∂²ℓ/∂o∂o) J v plus the exact Hessian of the penalty, shape (n,).

        J v is had by differentiating u ↦ Jᵀu, which is linear, so no forward mode is needed and
        every module serves.
        """
        return self._pull_outputs(self.criterion_product(self._push(v))) + self.penalty_product(v)

    def fisher_product(self, v: Tensor) -> Tensor:
        """The mean over examples of g_i g_iᵀ v, with g_i = ∂ℓ_i/∂w, plus the exact Hessian of the penalty.

        The criterion is a mean of ℓ_i, so row i of its slope at the outputs is ∂ℓ_i/∂o_i / B, and
        g_iᵀ v is had from row i of J v: no gradient of a single example is ever formed.
        """
        _, slopes = self.output_slopes
        by_example = lambda o: o.reshape(len(o), -1)  # (B, outputs), of outputs of shape (B,) too
        rows = [by_example(slope.detach()) for slope in slopes]
        tangents = [by_example(tangent) for tangent in self._push(v)]
        along = sum((row * tangent).sum(1, keepdim=True) for row, tangent in zip(rows, tangents, strict=True))
        size = rows[0].shape[0]
        pulled = [(size * along * row).view_as(slope) for row, slope in zip(rows, slopes, strict=True)]
        return self._pull_outputs(pulled) + self.penalty_product(v)

    def criterion_product(self, tangents: Sequence[Tensor]) -> list[Tensor]:
        """(∂²ℓ/∂o∂o) t for one tangent t of each output's shape; the network itself is not passed."""
        at, slopes = self.output_slopes
        pairs = [(s, t) for s, t in zip(slopes, tangents, strict=True) if s.requires_grad]
        curved = (
            torch.autograd.grad([s for s, _ in pairs], at, [t for _, t in pairs], retain_graph=True, allow_unused=True)
            if pairs
            else [None] * len(at)
        )
        return [torch.zeros_like(o) if c is None else c for o, c in zip(at, curved, strict=True)]

    def penalty_product(self, v: Tensor) -> Tensor:
        """The exact Hessian of the penalty times v, shape (n,)."""
        return _pull(self._penalty_gradient, self.w, v)

    def replay(self, params: PyTree) -> list[Tensor]:
        """The outputs that depend on the weights, computed again from `params` with the same draws."""
        with repeated(self._draws, self.w.device):
            return _differentiable(self._forward(params))

    def _forward(self, params: PyTree) -> PyTree:
        with twice_differentiable():
            outputs, _ = self._bilevel.forward(params, self._buffers, self.hparams, self._batch)
        return outputs

    def _push(self, v: Tensor) -> tuple[Tensor, ...]:
        """J v, for each output."""
        _, dual, pulled = self._pullback
        return torch.autograd.grad(pulled, dual, v, retain_graph=True)

    def _pull_outputs(self, duals: list[Tensor]) -> Tensor:
        """Jᵀ u, shape (n,)."""
        return torch.autograd.grad(self._pullback[0], self.w, duals, retain_graph=True)[0]

    @cached_property
    def _pullback(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        outputs = _differentiable(self._outputs)
        dual = [torch.zeros_like(o, requires_grad=True) for o in outputs]
        (pulled,) = torch.autograd.grad(outputs, self.w, dual, create_graph=True)
        return outputs, dual, pulled

    @cached_property
    def output_slopes(self) -> tuple[list[Tensor], list[Tensor]]:
        """Detached outputs and the criterion's gradient there, differentiable once more."""
        leaves, spec = pytree.tree_flatten(self._outputs)
        free = [o.detach().requires_grad_() if isinstance(o, Tensor) and o.requires_grad else o for o in leaves]
        at = _differentiable(free)
        value = self._bilevel.criterion(pytree.tree_unflatten(free, spec), self.hparams, self._batch)
        slopes = torch.autograd.grad(value, at, create_graph=True, allow_unused=True)
        return at, [torch.zeros_like(o) if s is None else s for o, s in zip(at, slopes, strict=True)]

    @cached_property
    def _penalty_gradient(self) -> Tensor:
        return _grad(self._penalty, self.w, create_graph=True)


def _differentiable(tree: PyTree) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.requires_grad]


def _grad(value: Tensor, at: Tensor, *, create_graph: bool = False) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(at)
    (slope,) = torch.autograd.grad(value, at, create_graph=create_graph, retain_graph=True, allow_unused=True)
    return torch.zeros_like(at) if slope is None else slope


def _pull(slope: Tensor, at: Tensor, v: Tensor) -> Tensor:
    """The product of the Jacobian of `slope` with v, for a symmetric Jacobian."""
    if not slope.requires_grad:
        return torch.zeros_like(v)
    (product,) = torch.autograd.grad(slope, at, v, retain_graph=True, allow_unused=True)
    return torch.zeros_like(v) if product is None else product
