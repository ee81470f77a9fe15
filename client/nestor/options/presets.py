"""Problems that a worker builds by itself: a model and kinds of hyperparameters, without code or data."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nestor.options.base import Option, Real, Whole, about, family, option

_PER = about("whether there is one decay for all weights, one for each tensor, or one for each weight")
_INIT = about("logarithm of the initial decay")


@family
class HyperparameterPreset(Option):
    """A kind of hyperparameters."""

    is_public: ClassVar[bool] = False
    expected: ClassVar[str] = "a kind of hyperparameters, such as L2Preset()"
    by_position: ClassVar[bool] = False  # whether there is an entry for each training example


@option
class L2Preset(HyperparameterPreset):
    """Weight decay."""

    per: Annotated[Literal["global", "tensor", "weight"], _PER] = "weight"
    init: Annotated[Real, _INIT] = -6.0


@option
class L1Preset(HyperparameterPreset):
    """Sparsity: the absolute values of the weights, smooth at zero."""

    per: Annotated[Literal["global", "tensor", "weight"], _PER] = "weight"
    init: Annotated[Real, _INIT] = -6.0


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
        about("widths of the hidden layers"),
        Field(min_length=1, max_length=16),
    ] = (128,)
