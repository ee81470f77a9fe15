"""Optimizers as pure functions on one tensor: weights as a vector, or a hyperparameter of any shape.

`update` never writes into its arguments, so a step can be differentiated and a state can be kept.
The arithmetic is that of torch.optim, which the tests hold it against.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestor_engine.bilevel import Tensors
from nestor_engine.errors import ConfigInvalid


@dataclass(frozen=True)
class Optimizer(abc.ABC):
    """Descends along gradients. Its slots are its memory: tensors like the one it updates, and a count.

    Attributes:
        lr: learning rate.
        steps: inner: updates between two outer steps (Algorithm 2's N), 5 by default; outer: outer steps in all.
        batch_size: examples in a batch; by default 128 training examples, and at most 1,000 validation examples.
    """

    lr: float
    steps: int | None = field(default=None, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True)

    @abc.abstractmethod
    def init(self, x: Tensor) -> Tensors:
        """The slots before the first update of `x`."""

    @abc.abstractmethod
    def update(self, x: Tensor, grad: Tensor, slots: Tensors) -> tuple[Tensor, Tensors]:
        """The tensor and the slots after one update along `grad`, which has the shape of `x`."""


def _positive(optimizer: Optimizer) -> None:
    if not optimizer.lr > 0:
        name = type(optimizer).__name__
        raise ConfigInvalid(reason=f"{name}(lr={optimizer.lr}): the learning rate must be positive.")


def _decayed(grad: Tensor, x: Tensor, weight_decay: float) -> Tensor:
    return grad.add(x, alpha=weight_decay) if weight_decay else grad


def _root(square: Tensor) -> Tensor:
    """√square with a finite derivative at zero, where a weight has had no gradient yet."""
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with (Nesterov) momentum and weight decay."""

    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _positive(self)
        if self.nesterov and not self.momentum:
            raise ConfigInvalid(reason="SGD(nesterov=True) needs momentum: pass momentum=0.9, or nesterov=False.")

    def init(self, x: Tensor) -> Tensors:
        return {"velocity": torch.zeros_like(x)} if self.momentum else {}

    def update(self, x: Tensor, grad: Tensor, slots: Tensors) -> tuple[Tensor, Tensors]:
        grad = _decayed(grad, x, self.weight_decay)
        if not self.momentum:
            return x.add(grad, alpha=-self.lr), {}
        velocity = grad.add(slots["velocity"], alpha=self.momentum)
        direction = grad.add(velocity, alpha=self.momentum) if self.nesterov else velocity
        return x.add(direction, alpha=-self.lr), {"velocity": velocity}


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam [1], with weight decay added to the gradient.

    [1] Kingma and Ba (2015), Adam: a method for stochastic optimization.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _positive(self)

    def init(self, x: Tensor) -> Tensors:
        # The count stays on the CPU: reading it must not wait for a device.
        return {"mean": torch.zeros_like(x), "square": torch.zeros_like(x), "count": torch.zeros((), dtype=torch.int64)}

    def update(self, x: Tensor, grad: Tensor, slots: Tensors) -> tuple[Tensor, Tensors]:
        grad = _decayed(grad, x, self.weight_decay)
        beta1, beta2 = self.betas
        count = slots["count"] + 1
        mean = torch.lerp(slots["mean"], grad, 1 - beta1)
        square = (slots["square"] * beta2).addcmul(grad, grad, value=1 - beta2)
        t = int(count)
        scale = (_root(square) / (1 - beta2**t) ** 0.5).add(self.eps)
        return x.addcdiv(mean, scale, value=-self.lr / (1 - beta1**t)), {"mean": mean, "square": square, "count": count}


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

    def __post_init__(self) -> None:
        _positive(self)

    def init(self, x: Tensor) -> Tensors:
        slots = {"square": torch.zeros_like(x)}
        return slots | ({"velocity": torch.zeros_like(x)} if self.momentum else {})

    def update(self, x: Tensor, grad: Tensor, slots: Tensors) -> tuple[Tensor, Tensors]:
        grad = _decayed(grad, x, self.weight_decay)
        square = (slots["square"] * self.alpha).addcmul(grad, grad, value=1 - self.alpha)
        direction = grad / _root(square).add(self.eps)
        if not self.momentum:
            return x.add(direction, alpha=-self.lr), {"square": square}
        velocity = direction.add(slots["velocity"], alpha=self.momentum)
        return x.add(velocity, alpha=-self.lr), {"square": square, "velocity": velocity}
