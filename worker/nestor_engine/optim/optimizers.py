"""Optimizers as pure functions on one tensor: weights as a vector, or a hyperparameter of any shape.

`step` never writes into its arguments, so a step can be differentiated and a state can be kept;
`step_` is the same in place, for a loop that owns what it moves. The arithmetic is that of
torch.optim, which the tests hold it against.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from numbers import Real

import torch
from torch import Tensor

from nestor_engine.errors import ConfigInvalid
from nestor_engine.objective import Tensors
from nestor_engine.optim.schedules import Schedule

# What an optimizer leaves open, by its part in the loop.
INNER_STEPS = 5
TRAIN_BATCH = 128
VAL_BATCH = 1000


@dataclass(frozen=True)
class Optimizer(abc.ABC):
    """Descends along gradients. Its slots are its memory: tensors like the one it updates.

    Attributes:
        lr: learning rate.
        schedule: a factor on the learning rate, by the number of the update; none by default.
        clip_norm: gradients longer than this, over all tensors, are shortened to it.
        steps: inner: updates between two outer steps (Algorithm 2's N), 5 by default; outer: leave it out,
            because the config's n_steps counts outer steps.
        batch_size: examples in a batch; by default 128 training examples, and at most 1,000 validation examples.
    """

    lr: float
    schedule: Schedule | None = field(default=None, kw_only=True)
    clip_norm: float | None = field(default=None, kw_only=True)
    steps: int | None = field(default=None, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not (isinstance(self.lr, Real) and float(self.lr) > 0):
            raise ConfigInvalid(reason=f"{name}(lr={self.lr!r}): the learning rate must be positive.")
        if self.schedule is not None and not isinstance(self.schedule, Schedule):
            raise ConfigInvalid(
                reason=f"{name}(schedule={self.schedule!r}): pass one of Nestor's schedules, such as "
                "CosineDecay(steps=1000); those of torch.optim change a rate that nobody could resume."
            )
        for option in ("clip_norm", "steps", "batch_size"):
            if (value := getattr(self, option)) is not None and not (isinstance(value, Real) and float(value) > 0):
                raise ConfigInvalid(reason=f"{name}({option}={value!r}): it must be positive.")

    def rate(self, k: int) -> float:
        """The learning rate of update number `k`."""
        return self.lr * (self.schedule.factor(k) if self.schedule else 1.0)

    def clip(self, gradients: list[Tensor]) -> list[Tensor]:
        """The gradients of one update, shortened together where they are longer than `clip_norm`."""
        if self.clip_norm is None:
            return gradients
        length = _root(torch.stack([torch.linalg.vector_norm(g) for g in gradients]).square().sum())
        factor = (self.clip_norm / length).clamp_max(1.0)
        return [g * factor for g in gradients]

    @abc.abstractmethod
    def init(self, x: Tensor) -> Tensors:
        """The slots before the first update of `x`."""

    def step(self, x: Tensor, grad: Tensor, slots: Tensors, k: int) -> tuple[Tensor, Tensors]:
        """The tensor and the slots after update number `k`, from 0, along `grad`, which has the shape of `x`."""
        x, slots = x.clone(), {name: slot.clone() for name, slot in slots.items()}
        self.step_(x, grad, slots, k)
        return x, slots

    @abc.abstractmethod
    def step_(self, x: Tensor, grad: Tensor, slots: Tensors, k: int) -> None:
        """`step` in place. What autograd keeps for a derivative is not written to."""


def _decayed(grad: Tensor, x: Tensor, weight_decay: float) -> Tensor:
    return grad.add(x, alpha=weight_decay) if weight_decay else grad


def _root(square: Tensor) -> Tensor:
    """√square with a finite derivative at zero, where there has been no gradient yet."""
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt_()


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with (Nesterov) momentum and weight decay."""

    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ConfigInvalid(reason="SGD(nesterov=True) needs momentum: pass momentum=0.9, or nesterov=False.")

    def init(self, x: Tensor) -> Tensors:
        return {"velocity": torch.zeros_like(x)} if self.momentum else {}

    def step_(self, x: Tensor, grad: Tensor, slots: Tensors, k: int) -> None:
        direction = _decayed(grad, x, self.weight_decay)
        if self.momentum:
            velocity = slots["velocity"].mul_(self.momentum).add_(direction)
            direction = direction.add(velocity, alpha=self.momentum) if self.nesterov else velocity
        x.add_(direction, alpha=-self.rate(k))


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam [1], with weight decay added to the gradient.

    [1] Kingma and Ba (2015), Adam: a method for stochastic optimization.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def init(self, x: Tensor) -> Tensors:
        return {"mean": torch.zeros_like(x), "square": torch.zeros_like(x)}

    def step_(self, x: Tensor, grad: Tensor, slots: Tensors, k: int) -> None:
        _adam(self, x, _decayed(grad, x, self.weight_decay), slots, k)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with weight decay apart from the gradient [1].

    [1] Loshchilov and Hutter (2019), Decoupled weight decay regularization.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def init(self, x: Tensor) -> Tensors:
        return {"mean": torch.zeros_like(x), "square": torch.zeros_like(x)}

    def step_(self, x: Tensor, grad: Tensor, slots: Tensors, k: int) -> None:
        _adam(self, x.mul_(1 - self.rate(k) * self.weight_decay), grad, slots, k)


def _adam(options: Adam | AdamW, x: Tensor, grad: Tensor, slots: Tensors, k: int) -> None:
    beta1, beta2 = options.betas
    mean = slots["mean"].lerp_(grad, 1 - beta1)
    square = slots["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    scale = (_root(square) / (1 - beta2 ** (k + 1)) ** 0.5).add_(options.eps)
    step = -options.rate(k) / (1 - beta1 ** (k + 1))
    x.addcdiv_(mean, scale, value=step)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop [1], with momentum and weight decay.

    [1] Tieleman and Hinton (2012), Lecture 6.5.
    """

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0

    def init(self, x: Tensor) -> Tensors:
        slots = {"square": torch.zeros_like(x)}
        return slots | ({"velocity": torch.zeros_like(x)} if self.momentum else {})

    def step_(self, x: Tensor, grad: Tensor, slots: Tensors, k: int) -> None:
        grad = _decayed(grad, x, self.weight_decay)
        square = slots["square"].mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
        direction = grad / _root(square).add(self.eps)
        if self.momentum:
            direction = slots["velocity"].mul_(self.momentum).add_(direction)
        x.add_(direction, alpha=-self.rate(k))
