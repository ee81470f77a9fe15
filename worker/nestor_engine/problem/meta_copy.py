"""A module without its tensors: what is run when weights, buffers and hyperparameters are arguments."""

from __future__ import annotations

import copy

from torch import nn


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are on the meta device, so that forgetting to supply one is an error.

    The copy keeps the modes of the model's parts; tensors that parts share stay shared. Gradients of its
    embeddings are dense, for all weights are one vector.
    """
    memo = {id(t): t.detach().to("meta") for t in (*model.parameters(), *model.buffers())}
    memo |= {id(p): nn.Parameter(memo[id(p)], requires_grad=p.requires_grad) for p in model.parameters()}
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False
    return copied
