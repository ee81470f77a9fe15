"""Problems that a worker builds by itself: a model and kinds of hyperparameters, or the factory of a package."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nestor.errors import EntryPointParamMissing, EntryPointParamUnknown
from nestor.options.base import NonNegative, Option, Real, Whole, about, family, option

_PER = about(
    "whether there is one decay for all weights, one for each tensor, one for each input, output or filter of a "
    "tensor, or one for each weight"
)
_ONLY = about(
    "the part of the model that decays: first parts of parameter names, such as 0; all of it by default", example=["0"]
)
_Per = Literal["global", "tensor", "input", "output", "channel", "weight"]
_Parts = tuple[Annotated[str, Field(min_length=1, max_length=200)], ...]
_INIT = about("logarithm of the initial decay")


@family
class HyperparameterPreset(Option):
    """A kind of hyperparameters."""

    is_public: ClassVar[bool] = False
    expected: ClassVar[str] = "a kind of hyperparameters, such as L2Preset()"
    by_position: ClassVar[bool] = False  # whether there is an entry for each training example

    _: KW_ONLY
    prior: Annotated[
        NonNegative,
        about(
            "precision of a normal prior, in each tensor, of the entries' deviations from the level that they share, "
            "before the transform; 0: none, as in trials of earlier versions",
            example=0.01,
        ),
    ] = 0.0


@option
class L2Preset(HyperparameterPreset):
    """Weight decay."""

    per: Annotated[_Per, _PER] = "weight"
    init: Annotated[Real, _INIT] = -6.0
    only: Annotated[_Parts, _ONLY, Field(max_length=16)] = ()


@option
class L1Preset(HyperparameterPreset):
    """Sparsity: the absolute values of the weights, smooth at zero."""

    per: Annotated[_Per, _PER] = "weight"
    init: Annotated[Real, _INIT] = -6.0
    only: Annotated[_Parts, _ONLY, Field(max_length=16)] = ()


@option
class ClassWeightsPreset(HyperparameterPreset):
    """A weight for each class of the training examples, of mean one."""

    normalize: Annotated[
        Literal["softmax", "sigmoid"], about("whether one class may outweigh all others, or is bounded")
    ] = "softmax"


@option
class LabelSmoothingPreset(HyperparameterPreset):
    """The strength of label smoothing."""

    init: Annotated[Real, about("initial fraction that is spread over all classes", gt=0, lt=1)] = 0.1
    per: Annotated[
        Literal["global", "class"], about("whether there is one strength for all labels, or one for each class")
    ] = "global"


@option
class LabelCorrectionPreset(HyperparameterPreset):
    """A soft label for every training example."""

    by_position: ClassVar[bool] = True

    strength: Annotated[Real, about("initial logit of the label that was given", gt=0, le=50)] = 4.0


@option
class ExampleWeightsPreset(HyperparameterPreset):
    """A weight for every training example."""

    by_position: ClassVar[bool] = True

    init: Annotated[Real, about("initial value, before the sigmoid")] = 0.0


@option
class MLPPreset(Option):
    """A multilayer perceptron with rectified linear units."""

    is_public: ClassVar[bool] = False
    expected: ClassVar[str] = "a model, such as MLPPreset()"

    hidden: Annotated[
        tuple[Annotated[Whole, Field(ge=1, le=16_384)], ...],
        about("widths of the hidden layers", example=[128, 64]),
        Field(min_length=1, max_length=16),
    ] = (128,)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Their names. Linear layers and activations share one numbering."""
        layers = range(0, 2 * len(self.hidden) + 1, 2)
        return tuple(f"{layer}.{parameter}" for layer in layers for parameter in ("weight", "bias"))


def registered() -> dict[str, importlib.metadata.EntryPoint]:
    """The factories that installed packages register in the group `nestor.problems`, by module and function."""
    found = importlib.metadata.entry_points(group="nestor.problems")
    return {point.value.partition("[")[0].replace(" ", ""): point for point in found}


def package_of(point: importlib.metadata.EntryPoint) -> str:
    """Name and version of the package that registers `point`."""
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def check_params(entry_point: str, given: Iterable[str], required: Mapping[str, bool], *, takes_others: bool) -> None:
    """Check the names of the arguments for a factory.

    Args:
        given: the names that the user gave.
        required: for each parameter of the factory, whether it has no default.
        takes_others: whether the factory takes further arguments (`**kwargs`).

    Raises:
        EntryPointParamUnknown, EntryPointParamMissing
    """
    names = list(given)
    for name in names:
        if name not in required and not takes_others:
            raise EntryPointParamUnknown(entry_point=entry_point, param=name, params=list(required))
    for name, is_required in required.items():
        if is_required and name not in names:
            raise EntryPointParamMissing(entry_point=entry_point, param=name, params=list(required))
