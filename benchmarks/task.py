"""A bilevel problem as other libraries want it: two functions of lists of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.models import DECAY, Case

Objective = Callable[[list[Tensor], list[Tensor]], Tensor]


@dataclass(frozen=True)
class Task:
    """`inner` and `outer` of (weights, hparams), where they are taken, and the step size of the series.

    Attributes:
        case: the module behind them, for libraries that want one.
    """

    inner: Objective
    outer: Objective
    weights: list[Tensor]
    hparams: list[Tensor]
    alpha: float
    case: Case | None = None


def task_of(case: Case, alpha: float) -> Task:
    """The same losses as those of `case.problem()`, written by hand."""
    module = case.model
    names = [name for name, _ in module.named_parameters()]

    def outputs(weights: list[Tensor], x: Tensor, training: bool) -> Tensor:
        # Copied, because a batch norm writes its running means into what it is given.
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        module.train(training)
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(module, (dict(zip(names, weights, strict=True)), buffers), (x,))

    def inner(weights: list[Tensor], hparams: list[Tensor]) -> Tensor:
        decay = torch.stack([(h.exp() * w * w).sum() for h, w in zip(hparams, weights, strict=True)]).sum()
        return F.cross_entropy(outputs(weights, case.x, True), case.y) + 0.5 * decay

    def outer(weights: list[Tensor], hparams: list[Tensor]) -> Tensor:
        del hparams
        return F.cross_entropy(outputs(weights, case.xv, False), case.yv)

    weights = [p.detach() for p in module.parameters()]
    return Task(inner, outer, weights, [torch.full_like(w, DECAY) for w in weights], alpha, case)
