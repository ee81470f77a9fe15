"""The small problem that every library is given: plain functions of lists of tensors, in float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.task import Task

TERMS = (0, 5, 20)  # products of the series
_generator = torch.Generator().manual_seed(0)
_draw = lambda *shape: torch.randn(*shape, generator=_generator)

_X, _XV = _draw(40, 5), _draw(20, 5)
_Y, _YV = torch.arange(40) % 3, torch.arange(20) % 3
WEIGHTS = [_draw(8, 5) / 5**0.5, _draw(8) / 10, _draw(3, 8) / 8**0.5, _draw(3) / 10]
HPARAMS = [torch.full((4,), -1.0), torch.zeros(40)]  # log of each tensor's decay; each example's weight


def _outputs(weights: list[Tensor], x: Tensor) -> Tensor:
    first, shift, last, offset = weights
    return F.linear(F.gelu(F.linear(x, first, shift)), last, offset)


def inner(weights: list[Tensor], hparams: list[Tensor]) -> Tensor:
    """f: cross-entropy of weighted examples, and weight decay."""
    decay, examples = hparams
    losses = F.cross_entropy(_outputs(weights, _X), _Y, reduction="none")
    squares = torch.stack([(w * w).sum() for w in weights])
    return (examples.sigmoid() * losses).mean() + 0.5 * (decay.exp() * squares).sum()


def outer(weights: list[Tensor], hparams: list[Tensor]) -> Tensor:
    """g: cross-entropy on validation examples, which reads no hyperparameter."""
    del hparams
    return F.cross_entropy(_outputs(weights, _XV), _YV)


SMALL = Task(inner, outer, WEIGHTS, HPARAMS, alpha=0.1)
