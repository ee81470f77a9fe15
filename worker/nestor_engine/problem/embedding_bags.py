"""`nn.EmbeddingBag` out of operators that torch can differentiate twice."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def use_embeddings(model: nn.Module) -> None:
    """Let the bags of `model` look up embeddings and reduce them, where bags are the rows of a matrix of tokens."""
    for module in model.modules():
        if type(module) is nn.EmbeddingBag and module.max_norm is None and not module.scale_grad_by_freq:
            module.__class__ = _TwiceDifferentiable


class _TwiceDifferentiable(nn.EmbeddingBag):
    """Bags as (B, tokens); with offsets, the fused operator remains, which has no second derivative."""

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        if input.ndim != 2 or offsets is not None:
            return super().forward(input, offsets, per_sample_weights)
        rows = F.embedding(input, self.weight, self.padding_idx)
        if per_sample_weights is not None:
            rows = rows * per_sample_weights.unsqueeze(-1)
        if self.padding_idx is None:
            held = torch.ones_like(input, dtype=torch.bool).unsqueeze(-1)
        else:
            held = (input != self.padding_idx).unsqueeze(-1)
        if self.mode == "max":
            # A bag of padding alone is zero, as in torch.
            return torch.where(held.any(1), rows.masked_fill(~held, -torch.inf).amax(1), 0.0)
        total = (rows * held).sum(1)
        return total / held.sum(1).clamp_min(1) if self.mode == "mean" else total
