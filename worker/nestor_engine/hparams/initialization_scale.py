"""Scales of the initial weights."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.utils import _pytree as pytree

from nestor_engine.hparams.weights import OfWeights, Only
from nestor_engine.objective import PyTree, Tensors
from nestor_engine.tensors.ravel import named_leaves


class InitializationScale(OfWeights):
    """The initial weights are multiplied by exp(λ), to which the implicit function theorem is blind.

    A minimum does not depend on the initial weights, so the implicit hypergradient is exactly zero, as long as
    each start leads to the same minimum; and a warm-started trial is initialized once. `Unrolled` sees the scales
    if it goes back to the very first inner step: at the first outer step only, without warm-up. So one trial does
    not tune them. A loop of trials with one outer step each does, but trains from the start each time. A refit
    (`fit`) starts from scaled weights.

    Named `initialization_scale`, of shape (number of tensors,) or ().

    Args:
        model: the problem's model.
        per: one scale for all weights, or one per tensor.
        only: the part of the model whose weights are scaled, as for `L2`.
        init: the logarithm of the initial scale.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        per: Literal["global", "tensor"] = "tensor",
        only: Only | None = None,
        init: float = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__(model, per, init, name, only, default_name="initialization_scale")

    def initial(self, params: PyTree, values: Tensors) -> PyTree:
        """Each chosen tensor of the initial weights times its scale."""
        leaves, spec = pytree.tree_flatten(params)
        named = named_leaves(params)
        scales = self.of(named, values)
        scaled = [scales[name] * w if name in scales else w for name, w in zip(named, leaves, strict=True)]
        return pytree.tree_unflatten(scaled, spec)
