"""The inner loop: one batch, one gradient, one update, from the weights as they stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nestor_engine.autodiff.kernels import twice_differentiable
from nestor_engine.autodiff.replay import Recorded
from nestor_engine.data.splits import Batches, View
from nestor_engine.distributed import ALONE, Group
from nestor_engine.objective import Batch, Bilevel, Tensors
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.tensors.random import derive_seed, randomness, restored
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.state import State

RECORDING_PAYS = 20  # inner steps after which a GPU's are recorded


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

    def __init__(
        self,
        bilevel: Bilevel,
        ravel: Ravel,
        train: Tensors | View,
        optimizer: Optimizer,
        seed: int,
        group: Group = ALONE,
        *,
        batch_size: int = 128,
    ) -> None:
        self.seed, self.group, self.batch_size = seed, group, batch_size
        self._bilevel, self._ravel, self._optimizer, self._train = bilevel, ravel, optimizer, train
        self.source = self.batches("train")  # what the inner steps are trained on
        self.share = self.source.share
        self._fastest = Recorded(self._gradient, after=RECORDING_PAYS)

    def batches(self, purpose: str) -> Batches:
        """An endless pass over the training split for one purpose, in batches of the inner loop's size."""
        return Batches(self._train, self.batch_size, derive_seed(self.seed, purpose), self.group)

    def run(self, state: State, steps: int, *, keep: int = 0) -> tuple[State, float, tuple[InnerStep, ...]]:
        """The state after `steps` inner steps, the loss before the last of them, and where the last `keep` began."""
        # Copied once, and moved in place from there on: the state is not ours to write to.
        w, buffers, slots = state.weights.clone(), state.buffers, _copied(state.inner)
        loss, kept, start = torch.tensor(math.nan), [], state.inner_gradient_start
        end = state.inner_steps + steps
        with restored(w.device) as reseed:
            for k in range(state.inner_steps, end):
                batch = self.source[k]
                reseed(self._draws(k))
                if k >= end - keep:
                    kept.append(InnerStep(k, w.clone(), buffers, _copied(slots)))
                    # With the kernels that it will be taken again with, for each has draws and roundings of its own.
                    with twice_differentiable():
                        loss, gradient, buffers = self._gradient(w, buffers, state.hparams, batch)
                else:
                    loss, gradient, buffers = self._fastest(w, buffers, state.hparams, batch)
                gradient = self.share.mean(gradient)
                if k == 0:
                    start = float(gradient.norm())
                (gradient,) = self._optimizer.clip([gradient])
                self._optimizer.move(w, gradient, slots, k)
        if self._fastest.is_recorded:  # the next step overwrites its outputs
            loss, buffers = loss.clone(), _copied(buffers)
        loss, buffers = self.share.mean(loss), self.share.settle(state.buffers, buffers)
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
        with randomness(self._draws(step.k), w.device), twice_differentiable():
            loss, _ = self._loss(w, step.buffers, free, self.source[step.k])
            (ours,) = torch.autograd.grad(loss, w, create_graph=True)
        gradient = self.share.mean(ours.detach()).requires_grad_()
        (clipped,) = self._optimizer.clip([gradient])
        ended, ended_slots = self._optimizer.update(w, clipped, slots, step.k)

        # First through the update, which sees the mean gradient, then through this process's part of that.
        outputs = [ended, *(ended_slots[name] for name in slots)]
        incoming = [after.w, *(after.slots[name] for name in slots)]
        by_gradient, by_w, *by_slots = _pulled(outputs, [gradient, w, *slots.values()], incoming)
        through = [self.share.mean(p) for p in _pulled([ours], [w, *free.values()], [by_gradient])]
        before = Adjoint(by_w + through[0], dict(zip(slots, by_slots, strict=True)))
        return before, dict(zip(free, through[1:], strict=True))

    def _draws(self, k: int) -> int:
        """The seed of what step number `k` draws."""
        return self.group.seed(derive_seed(self.seed, "inner", k))

    def _gradient(self, w: Tensor, buffers: Tensors, hparams: Tensors, batch: Batch) -> tuple[Tensor, Tensor, Tensors]:
        """The loss, ∂f/∂w, and the buffers afterwards."""
        at = w.detach().requires_grad_()
        loss, buffers = self._loss(at, buffers, hparams, batch)
        (gradient,) = torch.autograd.grad(loss, at)
        return loss.detach(), gradient, {name: buffer.detach() for name, buffer in buffers.items()}

    def _loss(self, w: Tensor, buffers: Tensors, hparams: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        return self._bilevel.train_loss(self._ravel.tree(w), buffers, hparams, batch)


def _copied(named: Tensors) -> Tensors:
    return {name: value.clone() for name, value in named.items()}


def _pulled(outputs: Sequence[Tensor], inputs: Sequence[Tensor], incoming: Sequence[Tensor]) -> list[Tensor]:
    """Derivatives by `inputs`, where those by `outputs` are `incoming`; zero where they do not meet."""
    connected = [(o, a) for o, a in zip(outputs, incoming, strict=True) if o.requires_grad]
    if not connected:
        return [torch.zeros_like(at) for at in inputs]
    pulled = torch.autograd.grad([o for o, _ in connected], inputs, [a for _, a in connected], allow_unused=True)
    return [torch.zeros_like(at) if p is None else p for at, p in zip(inputs, pulled, strict=True)]
