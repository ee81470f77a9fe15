"""A kind of hyperparameters: named tensors, and where they enter the training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestor.errors import InitialValuesOutOfBounds, OptionOutOfRange
from nestor.program_format import EntryNames
from nestor_engine.hparams.arguments import checked
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
        priors: name → precision of the normal prior of its entries' deviations from the level that they share; other
            names have none. `nestor_engine.optim.levels` says what it does.
        entry_names: name → how the entries are called, such as "example 17"; entries of others have no names.
        remarks: sentences for the author of the problem; `check` reports them as warnings.
        default_name: the name that the kind chose for itself, of which `compose` may make `<name>_2`; empty if its
            author named the tensors.
        init_shown: how messages name initial values that are given before the transform; None if they are
            given after it.
        tasks: names of the losses that the training loss must return; empty for one loss.
    """

    init: Tensors
    transforms: dict[str, str]
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({})
    priors: Mapping[str, float] = MappingProxyType({})
    entry_names: Mapping[str, EntryNames] = MappingProxyType({})
    remarks: tuple[str, ...] = ()
    default_name: str = ""
    init_shown: str | None = "The hyperparameter {name!r}"
    tasks: tuple[str, ...] = ()
    per_example = False  # whether `weigh` needs one loss per example
    by_position = False  # whether there is an entry for each training example

    def __init_subclass__(cls) -> None:
        # The user's own kinds keep their errors.
        if "__init__" in vars(cls) and cls.__module__.startswith("nestor_engine."):
            cls.__init__ = checked(cls.__name__)(cls.__init__)

    @checked("bounded")
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

    @checked("with_prior")
    def with_prior(self, precision: float) -> Self:
        """A copy with a normal prior, in each tensor, on the deviations of its entries from the level that they share.

        An entry is its initial value, plus the level, plus its deviation, all before the transform. Where the
        validation examples say little about entries one by one, these go with their level. To the outer objective, the
        prior adds precision/n Σ deviation², for n validation examples: the variance of a deviation is
        1/(2 · precision), in the units of the validation loss.

        Args:
            precision: 0 for no level and no prior. Decays have 0.01 from the start, weights of groups 0.3,
                and those of n examples 1/(2n).

        Raises:
            OptionOutOfRange: it is negative.
        """
        if precision < 0:
            raise OptionOutOfRange(option=f"with_prior({precision=:g})", rule="it must be at least 0")
        kind = copy.copy(self)
        kind.priors = priors(self.init, precision)
        return kind

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([*self._options(), *_described(self.init)])})"

    def _named(self, name: str | None, default: str) -> str:
        """The name that the author gave, or else `default`, which `compose` may number."""
        if name is None:
            self.default_name = default
            return default
        return name

    def _options(self) -> list[str]:
        """The options that `repr` shows, such as "per='tensor'"."""
        return []

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check that these hyperparameters fit a model and the columns of training data.

        Raises:
            ProblemInvalid: naming what does not fit.
        """
        del model, train

    def for_data(self, train: Tensors) -> Self:
        """This kind with what it must know about the columns of training data; their values may be read here only."""
        del train
        return self

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

    def combine(self, losses: Any, values: Tensors) -> Any:
        """One loss, shape () or (B,), from what the training loss returned."""
        del values
        return losses

    def weigh(self, losses: Tensor, values: Tensors, batch: Batch) -> Tensor:
        """The weighted losses; arguments and result have shape (B,) if `per_example`."""
        del values, batch
        return losses

    def penalty(self, params: PyTree, values: Tensors) -> Tensor | None:
        """A term of the training loss that depends on the weights directly, shape (); None for no term."""
        del params, values
        return None


def priors(init: Tensors, precision: float) -> dict[str, float]:
    """The same prior for each tensor with several entries."""
    return {name: precision for name, value in init.items() if precision and value.numel() > 1}


def _described(init: Tensors, limit: int = 3) -> list[str]:
    """Names and shapes of a few tensors, and how many there are if there are more."""
    shapes = [f"{name}: {tuple(value.shape)}" for name, value in init.items()]
    if len(shapes) <= limit:
        return shapes
    numbers = sum(value.numel() for value in init.values())
    return [*shapes[: limit - 1], "…", f"{numbers:,} numbers in {len(shapes):,} tensors"]
