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
        init: name → initial value, before the transform.
        transforms: name → one of `TRANSFORMS`; other names are not transformed.
        bounds: name → (least, largest) value, before the transform; other names have no bounds.
        remarks: sentences for the author of the problem; `check` reports them as warnings.
    """

    init: Tensors
    transforms: dict[str, str]
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({})
    remarks: tuple[str, ...] = ()
    per_example = False  # whether `weigh` needs one loss per example
    by_position = False  # whether there is an entry for each training example

    def __init_subclass__(cls) -> None:
        # The user's own kinds keep their errors.
        if "__init__" in vars(cls) and cls.__module__.startswith("nestor_engine."):
            cls.__init__ = arguments_of(cls.__name__)(cls.__init__)

    @arguments_of("bounded")
    def bounded(self, least: float = -math.inf, largest: float = math.inf) -> Self:
        """A copy whose entries, before the transform, every outer step projects onto an interval.

        Raises:
            ProblemInvalid: the interval is empty, or an initial value is outside.
        """
        for name, value in self.init.items():
            low, high = float(value.min()), float(value.max())
            if not least <= low <= high <= largest:
                raise InitialValuesOutOfBounds(name=name, low=low, high=high, least=least, largest=largest)
        kind = copy.copy(self)
        kind.bounds = dict.fromkeys(self.init, (least, largest))
        return kind

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check that these hyperparameters fit a model and the columns of training data.

        Raises:
            ProblemInvalid: naming what does not fit.
        """
        del model, train

    def adapt(self, module: nn.Module) -> None:
        """Change a copy of the model without tensors, in place. Do not change names of parameters."""
        del module

    def tensors(self, values: Tensors) -> Tensors:
        """Buffers of the adapted module that the hyperparameters supply: name in the module → value."""
        del values
        return {}

    def initial(self, params: PyTree, values: Tensors) -> PyTree:
        """The weights before the first inner step, made from the problem's; the structure must stay."""
        del values
        return params

    def prepare(self, values: Tensors, batch: Batch) -> Batch:
        """The training batch, possibly with other columns; `batch` itself must not be changed."""
        del values
        return batch

    def weigh(self, losses: Tensor, values: Tensors, batch: Batch) -> Tensor:
        """The weighted losses; arguments and result have shape (B,) if `per_example`."""
        del values, batch
        return losses

    def penalty(self, params: PyTree, values: Tensors) -> Tensor | None:
        """A term of the training loss that depends on the weights directly, shape (); None for no term."""
        del params, values
        return None
