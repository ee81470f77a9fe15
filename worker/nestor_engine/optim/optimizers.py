"""Optimizers as pure functions on one tensor: weights as a vector, or a hyperparameter of any shape.

`step` never writes into its arguments, so a step can be differentiated and a state can be kept;
`step_` is the same in place, for a loop that owns its tensors. The arithmetic is that of
torch.optim; the tests compare the two.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nestor import options
from nestor_engine.implementations import Implementation
from nestor_engine.objective import Tensors
from nestor_engine.optim.schedules import Schedule
from nestor_engine.tensors.linalg import vector_norm

SAMPLES = 1_000  # of a schedule, for its mean


class Optimizer(options.Optimizer, Implementation, abc.ABC):
    """Base class of optimizers. Its state is a dict of tensors, each with the shape of the tensor that it updates."""

    if TYPE_CHECKING:
        schedule: Schedule | None

    @property
    def full_rate(self) -> float:
        """The learning rate without its schedule."""
        assert self.lr != "auto"  # `Config.outers` makes it a number
        return self.lr

    def rate(self, k: int) -> float:
        """The learning rate of update number `k`."""
        return self.full_rate * (self.schedule.factor(k) if self.schedule else 1.0)

    def reach(self, state: Tensors, k: int) -> float:
        """How far `k` updates have moved the tensor for each unit of a constant gradient, in its mean entry."""
        if k == 0:
            return 0.0
        mean_factor = 1.0
        if self.schedule is not None:
            sampled = range(0, k, max(1, k // SAMPLES))
            mean_factor = sum(map(self.schedule.factor, sampled)) / len(sampled)
        return k * self.full_rate * mean_factor * self.gain(state, k)

    def gain(self, state: Tensors, k: int) -> float:
        """By what an update that has seen `k` gradients, at least one, multiplies them, beside the learning rate."""
        del state, k
        return 1.0

    def clip(self, gradients: list[Tensor]) -> list[Tensor]:
        """The gradients of one update, scaled together if their joint norm exceeds `clip_norm`."""
        if self.clip_norm is None:
            return gradients
        length = _root(torch.stack([vector_norm(g) for g in gradients]).square().sum())
        factor = (self.clip_norm / length).clamp_max(1.0)
        return [g * factor for g in gradients]

    @abc.abstractmethod
    def init(self, x: Tensor) -> Tensors:
        """The state before the first update of `x`: tensors by name, each of the shape of `x`."""

    def step(self, x: Tensor, grad: Tensor, state: Tensors, k: int) -> tuple[Tensor, Tensors]:
        """The tensor and the state after update number `k`, from 0, along `grad`, which has the shape of `x`."""
        x, state = x.clone(), {name: value.clone() for name, value in state.items()}
        self.step_(x, grad, state, k)
        return x, state

    @abc.abstractmethod
    def step_(self, x: Tensor, grad: Tensor, state: Tensors, k: int) -> None:
        """`step` in place: writes into `x` and `state`, but not into tensors that autograd saved for a derivative."""


def _decayed(grad: Tensor, x: Tensor, weight_decay: float) -> Tensor:
    return grad.add(x, alpha=weight_decay) if weight_decay else grad


def _root(square: Tensor) -> Tensor:
    """√square with a finite derivative at zero, the value before the first gradient."""
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt_()


class SGD(options.SGD, Optimizer):
    """Stochastic gradient descent with (Nesterov) momentum and weight decay."""

    def init(self, x: Tensor) -> Tensors:
        """`velocity`, of zeros, if there is momentum."""
        return {"velocity": torch.zeros_like(x)} if self.momentum else {}

    def gain(self, state: Tensors, k: int) -> float:
        """1 / (1 − momentum), the sum of what a gradient adds to all later velocities."""
        del state, k
        return 1 / (1 - self.momentum)

    def step_(self, x: Tensor, grad: Tensor, state: Tensors, k: int) -> None:
        """`step` in place: updates `x` and the velocity."""
        direction = _decayed(grad, x, self.weight_decay)
        if self.momentum:
            velocity = state["velocity"].mul_(self.momentum).add_(direction)
            direction = direction.add(velocity, alpha=self.momentum) if self.nesterov else velocity
        x.add_(direction, alpha=-self.rate(k))


class Adam(options.Adam, Optimizer):
    """Adam [1], with weight decay added to the gradient.

    [1] Kingma and Ba (2015), Adam: a method for stochastic optimization.
    """

    def init(self, x: Tensor) -> Tensors:
        """`mean` and `square`, the running averages of gradients and squared gradients; zeros."""
        return {"mean": torch.zeros_like(x), "square": torch.zeros_like(x)}

    def gain(self, state: Tensors, k: int) -> float:
        """The inverse of the mean entry of the scale that divides the gradient."""
        return _adam_gain(self, state, k)

    def step_(self, x: Tensor, grad: Tensor, state: Tensors, k: int) -> None:
        """`step` in place, with the averages corrected for their start."""
        _adam(self, x, _decayed(grad, x, self.weight_decay), state, k)


class AdamW(options.AdamW, Optimizer):
    """Adam with weight decay that is separate from the gradient [1].

    [1] Loshchilov and Hutter (2019), Decoupled weight decay regularization.
    """

    def init(self, x: Tensor) -> Tensors:
        """`mean` and `square`, the running averages of gradients and squared gradients; zeros."""
        return {"mean": torch.zeros_like(x), "square": torch.zeros_like(x)}

    def gain(self, state: Tensors, k: int) -> float:
        """As for Adam."""
        return _adam_gain(self, state, k)

    def step_(self, x: Tensor, grad: Tensor, state: Tensors, k: int) -> None:
        """`step` in place; `x` decays before it moves along the gradient."""
        _adam(self, x.mul_(1 - self.rate(k) * self.weight_decay), grad, state, k)


def _adam(adam: Adam | AdamW, x: Tensor, grad: Tensor, state: Tensors, k: int) -> None:
    beta1, beta2 = adam.betas
    mean = state["mean"].lerp_(grad, 1 - beta1)
    square = state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    scale = _adam_scale(adam, square, k + 1)
    step = -adam.rate(k) / (1 - beta1 ** (k + 1))
    x.addcdiv_(mean, scale, value=step)


def _adam_gain(adam: Adam | AdamW, state: Tensors, k: int) -> float:
    return 1 / float(_adam_scale(adam, state["square"], k).mean())


def _adam_scale(adam: Adam | AdamW, square: Tensor, k: int) -> Tensor:
    """What divides the mean gradient after `k` of them, the average of whose squares is `square`."""
    return (_root(square) / (1 - adam.betas[1] ** k) ** 0.5).add_(adam.eps)


class RMSprop(options.RMSprop, Optimizer):
    """RMSprop [1], with momentum and weight decay.

    [1] Tieleman and Hinton (2012), Lecture 6.5.
    """

    def init(self, x: Tensor) -> Tensors:
        """`square`, the running average of squared gradients, and `velocity` if there is momentum; zeros."""
        state = {"square": torch.zeros_like(x)}
        return state | ({"velocity": torch.zeros_like(x)} if self.momentum else {})

    def gain(self, state: Tensors, k: int) -> float:
        """The inverse of the mean entry of the scale that divides the gradient, and the sum over velocities."""
        del k
        return 1 / (float(_root(state["square"]).mean()) + self.eps) / (1 - self.momentum)

    def step_(self, x: Tensor, grad: Tensor, state: Tensors, k: int) -> None:
        """`step` in place; the average of squared gradients is not corrected for its start."""
        grad = _decayed(grad, x, self.weight_decay)
        square = state["square"].mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
        direction = grad / _root(square).add(self.eps)
        if self.momentum:
            direction = state["velocity"].mul_(self.momentum).add_(direction)
        x.add_(direction, alpha=-self.rate(k))
