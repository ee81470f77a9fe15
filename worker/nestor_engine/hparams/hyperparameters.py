"""A kind of hyperparameters: named tensors, and where they enter the training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestor.errors import InitialValuesOutOfBounds, arguments_of
from nestor_engine.objective import Batch, PyTree, Tensors

TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda raw: raw,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}


class Hyperparameters:
    """A kind of hyperparameters. Subclasses fill `init` and `transforms` and override the hooks they need.

    In every hook `values` are the transformed hyperparameters, those of other kinds included.

    Attributes:
        init: name → initial value, as optimised.
        transforms: name → one of `TRANSFORMS`; names left out are used as they are.
        bounds: name → (least, largest) value, as optimised; names left out have none.
        remarks: what the author should know about this problem; `check` tells them as warnings.
    """

    init: Tensors
    transforms: dict[str, str]
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({})
    remarks: tuple[str, ...] = ()
    per_example = False  # whether `weigh` needs one loss per example
    by_position = False  # whether there is an entry for each training example

    def __init_subclass__(cls) -> None:
        # A user's own kind fails as its author wrote it.
        if "__init__" in vars(cls) and cls.__module__.startswith("nestor_engine."):
            cls.__init__ = arguments_of(cls.__name__)(cls.__init__)

    @arguments_of("bounded")
    def bounded(self, least: float = -math.inf, largest: float = math.inf) -> Self:
        """The same kind, each of whose entries every outer step projects onto an interval, as optimised.

        Raises:
            ProblemInvalid: there is nothing between the bounds, or an initial value is outside.
        """
        for name, value in self.init.items():
            low, high = float(value.min()), float(value.max())
            if not least <= low <= high <= largest:
                raise InitialValuesOutOfBounds(name=name, low=low, high=high, least=least, largest=largest)
        kind = copy.copy(self)
        kind.bounds = dict.fromkeys(self.init, (least, largest))
        return kind

    def expect(self, model: nn.Module, train: Tensors) -> None:
        """Refuse a model, or columns of training data, that these hyperparameters were not made for.

        Raises:
            ProblemInvalid: saying what does not fit.
        """
        del model, train

    def adapt(self, module: nn.Module) -> None:
        """Change the module that is run, a copy without tensors, in place; names of parameters must stay."""
        del module

    def tensors(self, values: Tensors) -> Tensors:
        """Buffers of the adapted module that the hyperparameters supply: name in the module → value."""
        del values
        return {}

    def initial(self, params: PyTree, values: Tensors) -> PyTree:
        """What the weights become before the first inner step."""
        del values
        return params

    def prepare(self, values: Tensors, batch: Batch) -> Batch:
        """What the training batch becomes."""
        del values
        return batch

    def weigh(self, losses: Tensor, values: Tensors, batch: Batch) -> Tensor:
        """What the losses become: shape (B,) in and out when `per_example`."""
        del values, batch
        return losses

    def penalty(self, params: PyTree, values: Tensors) -> Tensor | None:
        """What is added to the training loss for the weights themselves."""
        del params, values
        return None
