"""A copy of a module without its tensors, for calls that pass weights, buffers and hyperparameters."""

from __future__ import annotations

import copy

from torch import nn


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are on the meta device, so that a missing tensor is an error.

    The modes of the submodules are kept, and shared tensors stay shared. Gradients of embeddings become dense,
    because all weights are one vector.
    """
    memo = {id(t): t.detach().to("meta") for t in (*model.parameters(), *model.buffers())}
    memo |= {id(p): nn.Parameter(memo[id(p)], requires_grad=p.requires_grad) for p in model.parameters()}
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False
    return copied
