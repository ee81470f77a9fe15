"""What descends along gradients: of the weights, or of the hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from types import MappingProxyType
from typing import Annotated, ClassVar

from nestor.errors import NesterovWithoutMomentum
from nestor.options.base import Auto, Flag, Momentum, NonNegative, Option, Positive, about, family, option
from nestor.options.mistakes.sentences import violation
from nestor.options.schedules import Schedule

_MOVED = MappingProxyType(
    {
        "steps": "the numbers of steps belong to the config; pass n_steps for outer steps, and inner_steps for the "
        "inner steps between two of them",
        "batch_size": "the batch sizes belong to the config; pass batch_size for training examples, and "
        "val_batch_size for validation examples",
    }
)
_LR = about("learning rate")
_LR_OR_AUTO = about(
    "learning rate; 'auto', of the outer optimizer only: from n_steps and the transform of each hyperparameter, and "
    "falling linearly to zero over n_steps"
)
_MOMENTUM = about("share of the velocity that is kept from update to update")
_BETAS = about("decay of the running means of gradients and of their squares", example=[0.9, 0.999])
_EPS = about("added to the root of the mean square")
_WEIGHT_DECAY = about("multiple of the weights that is added to their gradient")


@family
class Optimizer(Option):
    """Descends along gradients."""

    tag_key: ClassVar[str] = "optimizer"
    expected: ClassVar[str] = (
        "one of Nestor's optimizers, such as Adam(1e-3) or RMSprop(1e-2); those of torch.optim hold parameters"
    )
    former: ClassVar[Mapping[str, str]] = _MOVED
    keeps_state: ClassVar[frozenset[str]] = frozenset()  # tensors of its state that others may read

    lr: Annotated[Positive | Auto, _LR]
    _: KW_ONLY
    schedule: Annotated[Schedule | None, about("a factor on the learning rate, by the number of the update")] = None
    clip_norm: Annotated[
        Positive | None, about("gradients longer than this, over all tensors, are shortened to it", example=1.0)
    ] = None


@option
class SGD(Optimizer):
    """Stochastic gradient descent with (Nesterov) momentum and weight decay."""

    lr: Annotated[Positive, _LR] = 0.1
    momentum: Annotated[Momentum, _MOMENTUM] = 0.0
    nesterov: Annotated[Flag, about("look ahead along the velocity; needs momentum")] = False
    weight_decay: Annotated[NonNegative, _WEIGHT_DECAY] = 0.0

    def check(self) -> None:
        """Refuse Nesterov's momentum without momentum."""
        if self.nesterov and not self.momentum:
            raise violation(NesterovWithoutMomentum)


@option
class Adam(Optimizer):
    """Adam [1], with weight decay added to the gradient.

    [1] Kingma and Ba (2015), Adam: a method for stochastic optimization.
    """

    keeps_state: ClassVar[frozenset[str]] = frozenset({"square"})  # a running mean of squared gradients

    lr: Annotated[Positive | Auto, _LR_OR_AUTO] = 1e-3
    betas: Annotated[tuple[Momentum, Momentum], _BETAS] = (0.9, 0.999)
    eps: Annotated[Positive, _EPS] = 1e-8
    weight_decay: Annotated[NonNegative, _WEIGHT_DECAY] = 0.0


@option
class AdamW(Optimizer):
    """Adam with weight decay apart from the gradient [1].

    [1] Loshchilov and Hutter (2019), Decoupled weight decay regularization.
    """

    tag: ClassVar[str] = "adamw"
    keeps_state: ClassVar[frozenset[str]] = frozenset({"square"})  # a running mean of squared gradients

    lr: Annotated[Positive, _LR] = 1e-3
    betas: Annotated[tuple[Momentum, Momentum], _BETAS] = (0.9, 0.999)
    eps: Annotated[Positive, _EPS] = 1e-8
    weight_decay: Annotated[
        NonNegative, about("the weights are multiplied by 1 - lr * weight_decay in every update")
    ] = 0.01


@option
class RMSprop(Optimizer):
    """RMSprop [1], with momentum and weight decay.

    [1] Tieleman and Hinton (2012), Lecture 6.5.
    """

    keeps_state: ClassVar[frozenset[str]] = frozenset({"square"})  # a running mean of squared gradients

    lr: Annotated[Positive, _LR] = 1e-2
    alpha: Annotated[Momentum, about("decay of the running mean of squared gradients")] = 0.99
    eps: Annotated[Positive, _EPS] = 1e-8
    momentum: Annotated[Momentum, _MOMENTUM] = 0.0
    weight_decay: Annotated[NonNegative, _WEIGHT_DECAY] = 0.0
