"""How large the weights start."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.utils import _pytree as pytree

from nestor_engine.hparams.weights import OfWeights
from nestor_engine.objective import PyTree, Tensors
from nestor_engine.tensors.ravel import named_leaves


class InitializationScale(OfWeights):
    """The initial weights are multiplied by exp(λ): what the implicit function theorem cannot see.

    A minimum does not depend on where the training began, so the implicit hypergradient is exactly zero,
    as long as each start leads to the same minimum; and a warm-started run begins once. `Unrolled` sees the
    scales if it goes back to the very first inner step, that is at the first outer step only, without warm-up.
    So a run does not tune them; a loop of runs of one outer step each does, at the price of
    training anew each time. A refit (`fit`) starts from scaled weights.

    Named `initialization_scale`, of shape (number of tensors,) or ().

    Args:
        model: the problem's model.
        per: how many scales there are.
        init: the logarithm of the initial scale.
    """

    granularities = ("global", "tensor")

    def __init__(
        self,
        model: nn.Module,
        *,
        per: Literal["global", "tensor"] = "tensor",
        init: float = 0.0,
        name: str = "initialization_scale",
    ) -> None:
        super().__init__(model, per, init, name)

    def initial(self, params: PyTree, values: Tensors) -> PyTree:
        """Each tensor of the initial weights times its scale."""
        leaves, spec = pytree.tree_flatten(params)
        scales = self.of(named_leaves(params), values).values()
        return pytree.tree_unflatten([scale * w for scale, w in zip(scales, leaves, strict=True)], spec)
