"""Find hyperparameters whose hypergradient is zero."""

from __future__ import annotations

import contextlib
from enum import Enum
from typing import cast

import torch
from torch import Tensor

from nestor_engine.autodiff.kernels import native_recurrence, twice_differentiable
from nestor_engine.objective import Batch, Bilevel, Tensors

Slopes = dict[str, Tensor | None]


class Missing(Enum):
    """Why a hypergradient is zero. The value is the sentence for the user."""

    influence = (
        "It does not change the training loss's gradient with respect to any parameter, nor the validation "
        "loss, so its hypergradient is zero. Use it in train_loss, or leave it out."
    )
    response = (
        "It changes only the initial weights. A minimum does not depend on them, so the implicit hypergradient is "
        "zero, and a warm-started trial is initialized once: it keeps its value, unless Unrolled goes back to the "
        "very first inner step. `fit` starts from the weights that it gives."
    )
    slope = "Its hypergradient is exactly zero on the first batch."


def missing(bilevel: Bilevel, params: Tensors, hparams: Tensors, train: Batch, val: Batch) -> dict[str, Missing]:
    """The hyperparameters whose hypergradient is zero whatever the solver, each with the reason.

    Args:
        params, hparams: requiring gradients.
    """
    found: dict[str, Missing] = {}
    mixed, direct = _mixed(bilevel, params, hparams, train), _direct(bilevel, params, hparams, val)
    start = _slopes(_dot(bilevel.initial(params, hparams)), hparams)
    for name in hparams:
        slopes = [slope for slope in (mixed[name], direct[name]) if slope is not None]
        if not slopes:
            found[name] = Missing.influence if start[name] is None else Missing.response
        elif not any(slope.any() for slope in slopes):
            found[name] = Missing.slope
    if Missing.slope in found.values():
        # Behind a layer of zeros every slope is zero, but only at this point.
        nudged = {n: (h + 0.01 * torch.randn_like(h)).detach().requires_grad_() for n, h in hparams.items()}
        with contextlib.suppress(Exception):  # the author's functions may fail there
            mixed = _mixed(bilevel, params, nudged, train)
            found = {n: why for n, why in found.items() if why is not Missing.slope or not _any(mixed[n])}
    return found


def _mixed(bilevel: Bilevel, params: Tensors, hparams: Tensors, train: Batch) -> Slopes:
    """(∂²f/∂λ∂w) q for a random q."""
    with twice_differentiable():
        loss, _ = bilevel.train_loss(params, bilevel.buffers, hparams, train)
    reached = torch.autograd.grad(loss, list(params.values()), create_graph=True, allow_unused=True)
    first = cast("tuple[Tensor | None, ...]", reached)  # which its annotation leaves out
    return _slopes(_dot({str(i): g for i, g in enumerate(first) if g is not None}), hparams)


def _direct(bilevel: Bilevel, params: Tensors, hparams: Tensors, val: Batch) -> Slopes:
    """∂g/∂λ; None for each if the validation loss fails, which another check reports."""
    with contextlib.suppress(Exception), native_recurrence():
        return _slopes(bilevel.val_loss_at(params, bilevel.buffers, hparams, val), hparams)
    return dict.fromkeys(hparams)


def _dot(tensors: Tensors) -> Tensor:
    return torch.stack([(t * torch.randn_like(t)).sum() for t in tensors.values()]).sum()


def _slopes(value: Tensor, hparams: Tensors) -> Slopes:
    if not value.requires_grad:
        return dict.fromkeys(hparams)
    return dict(zip(hparams, torch.autograd.grad(value, list(hparams.values()), allow_unused=True), strict=True))


def _any(slope: Tensor | None) -> bool:
    return slope is not None and bool(slope.any())
