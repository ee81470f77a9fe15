"""Hyperparameters of the trained weights: one for all, one for each tensor, or one for each weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nestor.errors import ChoiceUnknown, MadeForAnotherModel, ModelHasNoParameters
from nestor_engine.hparams.hyperparameters import Hyperparameters
from nestor_engine.objective import PyTree, Tensors
from nestor_engine.problem.wrappers import expect_values, unwrapped
from nestor_engine.tensors.ravel import named_leaves


class OfWeights(Hyperparameters):
    """Base class of kinds with positive numbers for the model's weights, stored as logarithms.

    Named `name` when there is one number for all ("global"; shape ()) or one for each tensor
    ("tensor"; shape (number of tensors,), in the order of the parameters), and `name.<parameter>`,
    each of its parameter's shape, when every weight has its own ("weight").
    """

    granularities: tuple[str, ...] = ("global", "tensor", "weight")

    def __init__(self, model: nn.Module | PyTree, per: str, init: float, name: str) -> None:
        if per not in self.granularities:
            raise ChoiceUnknown(option=f"{type(self).__name__}(per={per!r})", choices=list(self.granularities))
        weights = trainable(model)
        if not weights:
            raise ModelHasNoParameters(owner=f"{type(self).__name__}: the model")
        first = next(iter(weights.values()))

        def full(shape: tuple[int, ...]) -> Tensor:
            return torch.full(shape, float(init), dtype=first.dtype, device=first.device)

        self._per, self._name = per, name
        self._shapes = {parameter: w.shape for parameter, w in weights.items()}
        if per == "weight":
            self.init = {f"{name}.{parameter}": full(w.shape) for parameter, w in weights.items()}
        else:
            self.init = {name: full(() if per == "global" else (len(weights),))}
        self.transforms = dict.fromkeys(self.init, "exp")

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check that the trained weights have the names and shapes that they had in `__init__`.

        Raises:
            MadeForAnotherModel: they do not.
        """
        if {name: w.shape for name, w in trainable(model).items()} != self._shapes:
            raise MadeForAnotherModel(kind=type(self).__name__)

    def of(self, leaves: Tensors, values: Tensors) -> Tensors:
        """Parameter → its number or numbers, with a shape that broadcasts to that of the parameter."""
        if self._per == "weight":
            return {parameter: values[f"{self._name}.{parameter}"] for parameter in leaves}
        return dict(zip(leaves, values[self._name].expand(len(leaves)).unbind(), strict=True))


def trainable(model: nn.Module | PyTree) -> Tensors:
    """The trained weights by name, without those of wrappers; empty parameters are left out.

    Raises:
        ModelInvalid: a tensor has no shape or no values yet, or a trained one is complex.
    """
    if isinstance(model, nn.Module):
        model = unwrapped(model)
        expect_values(model)
        return {name: p for name, p in model.named_parameters() if p.requires_grad and p.numel()}
    return named_leaves(model)
