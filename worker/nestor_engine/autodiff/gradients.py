"""Gradients by tensors that the differentiated ones may not depend on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge


def grad_or_none(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor] | Sequence[GradientEdge],
    incoming: Tensor | Sequence[Tensor] | None = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> Sequence[Tensor | None]:
    """The derivatives by `inputs`, given those by `outputs`; None for an input that no output depends on.

    This is `torch.autograd.grad`, whose annotation leaves out the None.
    """
    return torch.autograd.grad(
        outputs, inputs, incoming, retain_graph=retain_graph, create_graph=create_graph, allow_unused=True
    )
