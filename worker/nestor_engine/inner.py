"""The inner loop: one batch, one gradient, one update, from the weights as they stand."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nestor_engine.bilevel import Batch, Bilevel, Tensors
from nestor_engine.data import Batches
from nestor_engine.flat import Ravel
from nestor_engine.optimizers import TRAIN_BATCH, Optimizer
from nestor_engine.point import twice_differentiable
from nestor_engine.seeding import derive_seed, randomness
from nestor_engine.state import State


@dataclass(frozen=True)
class InnerStep:
    """Where inner step number `k` began: enough to take it again, with the same batch and the same draws."""

    k: int
    w: Tensor
    buffers: Tensors
    slots: Tensors


@dataclass(frozen=True)
class Adjoint:
    """Derivatives of the outer objective by what an inner step ends, or begins, with."""

    w: Tensor
    slots: Tensors


class InnerLoop:
    """Trains on one split with one optimizer; batches and draws are functions of the seed and the step's number."""

    def __init__(self, bilevel: Bilevel, ravel: Ravel, train: Tensors, optimizer: Optimizer, seed: int) -> None:
        self.seed = seed
        self._bilevel, self._ravel, self._optimizer, self._train = bilevel, ravel, optimizer, train
        self._batches = self.batches("train")

    @property
    def source(self) -> Batches:
        """What the inner steps are trained on."""
        return self._batches

    def batches(self, purpose: str) -> Batches:
        """An endless pass over the training split for one purpose, in batches of the inner loop's size."""
        return Batches(self._train, self._optimizer.batch_size or TRAIN_BATCH, derive_seed(self.seed, purpose))

    def run(self, state: State, steps: int, *, keep: int = 0) -> tuple[State, float, tuple[InnerStep, ...]]:
        """The state after `steps` inner steps, the loss before the last of them, and where the last `keep` began."""
        w, buffers, slots = state.weights, state.buffers, state.inner
        loss, kept, start = torch.tensor(math.nan), [], state.inner_gradient_start
        end = state.inner_steps + steps
        for k in range(state.inner_steps, end):
            taken_again = k >= end - keep
            if taken_again:
                kept.append(InnerStep(k, w, buffers, slots))
            w = w.detach().requires_grad_()
            # With the kernels that it will be taken again with, for each has draws and roundings of its own.
            kernels = twice_differentiable() if taken_again else nullcontext()
            with randomness(derive_seed(self.seed, "inner", k), w.device), kernels:
                loss, buffers = self._loss(w, buffers, state.hparams, self._batches[k])
                (gradient,) = torch.autograd.grad(loss, w)
            loss, buffers = loss.detach(), {name: buffer.detach() for name, buffer in buffers.items()}
            if k == 0:
                start = float(gradient.norm())
            (gradient,) = self._optimizer.clip([gradient])
            w, slots = self._optimizer.update(w.detach(), gradient, slots, k)
        moved = replace(state, weights=w, buffers=buffers, inner=slots, inner_steps=end, inner_gradient_start=start)
        return moved, float(loss), tuple(kept)

    def pull(self, step: InnerStep, hparams: Tensors, after: Adjoint) -> tuple[Adjoint, Tensors]:
        """Take `step` again and pull derivatives back through it.

        Args:
            after: derivatives by the weights and slots that the step ends with.

        Returns:
            Derivatives by the weights and slots that it began with, and by each hyperparameter.
        """
        w = step.w.detach().requires_grad_()
        free = {name: value.detach().requires_grad_() for name, value in hparams.items()}
        slots = {name: slot.detach().requires_grad_() for name, slot in step.slots.items()}
        with randomness(derive_seed(self.seed, "inner", step.k), w.device), twice_differentiable():
            loss, _ = self._loss(w, step.buffers, free, self._batches[step.k])
            (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
        (gradient,) = self._optimizer.clip([gradient])
        ended, ended_slots = self._optimizer.update(w, gradient, slots, step.k)

        outputs = [ended, *(ended_slots[name] for name in slots)]
        incoming = [after.w, *(after.slots[name] for name in slots)]
        connected = [(o, a) for o, a in zip(outputs, incoming, strict=True) if o.requires_grad]
        inputs = [w, *slots.values(), *free.values()]
        pulled = torch.autograd.grad([o for o, _ in connected], inputs, [a for _, a in connected], allow_unused=True)
        filled = [torch.zeros_like(at) if p is None else p for at, p in zip(inputs, pulled, strict=True)]
        before = Adjoint(filled[0], dict(zip(slots, filled[1:], strict=False)))
        return before, dict(zip(free, filled[1 + len(slots) :], strict=True))

    def _loss(self, w: Tensor, buffers: Tensors, hparams: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        return self._bilevel.train_loss(self._ravel.tree(w), buffers, hparams, batch)
