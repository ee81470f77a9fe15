"""The inner loop: one batch, one gradient, one update, from the present weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nestor_engine.autodiff.gradients import grad_or_none
from nestor_engine.autodiff.kernels import twice_differentiable
from nestor_engine.autodiff.replay import Recorded
from nestor_engine.data.splits import Batches, View
from nestor_engine.distributed import ALONE, Group, Share
from nestor_engine.objective import Batch, Bilevel, Tensors
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.tensors.linalg import vector_norm
from nestor_engine.tensors.random import derive_seed, randomness, restored
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.state import FoldState

STEPS_BEFORE_RECORDING = 20  # inner steps on a GPU before they are recorded as a CUDA graph


@dataclass(frozen=True)
class InnerStep:
    """The start of inner step number `k`: enough to take it again, with the same batch and the same draws."""

    k: int
    w: Tensor
    buffers: Tensors
    optimizer_state: Tensors


@dataclass(frozen=True)
class Adjoint:
    """Derivatives of the outer objective by the weights and the optimizer state after, or before, an inner step."""

    w: Tensor
    optimizer_state: Tensors


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
        self._fastest = Recorded(self._gradient, after=STEPS_BEFORE_RECORDING)

    @cached_property
    def source(self) -> Batches:
        """The batches of the inner steps."""
        return self.batches("train")

    @property
    def share(self) -> Share:
        """This process's part of a batch."""
        return self.source.share

    def batches(self, purpose: str) -> Batches:
        """An endless pass over the training split for one purpose, in batches of the inner loop's size."""
        return Batches(self._train, self.batch_size, derive_seed(self.seed, purpose), self.group)

    def run(
        self, fold: FoldState, hparams: Tensors, n_steps: int, *, keep: int = 0
    ) -> tuple[FoldState, float, tuple[InnerStep, ...]]:
        """The fold after `n_steps` inner steps, the loss before the last of them, and where the last `keep` began."""
        # Copied once, then updated in place: the given state is not written to.
        w, buffers, optimizer_state = fold.weights.clone(), fold.buffers, _copied(fold.optimizer_state)
        loss, start = torch.tensor(math.nan), fold.inner_gradient_start
        kept: list[InnerStep] = []
        end, values = fold.inner_steps + n_steps, self._bilevel.values(hparams)
        with restored(w.device) as reseed:
            for k in range(fold.inner_steps, end):
                batch = self.source[k]
                reseed(self._draws(k))
                if k >= end - keep:
                    kept.append(InnerStep(k, w.clone(), buffers, _copied(optimizer_state)))
                    # With the kernels of `pull`, because draws and rounding differ between kernels.
                    with twice_differentiable():
                        loss, gradient, buffers = self._gradient(w, buffers, values, batch)
                else:
                    loss, gradient, buffers = self._fastest(w, buffers, values, batch)
                gradient = self.share.mean(gradient)
                if k == 0:
                    start = float(vector_norm(gradient))
                (gradient,) = self._optimizer.clip([gradient])
                self._optimizer.step_(w, gradient, optimizer_state, k)
        if self._fastest.is_recorded:  # the next step overwrites its outputs
            loss, buffers = loss.clone(), _copied(buffers)
        loss, buffers = self.share.mean(loss), self.share.settle(fold.buffers, buffers)
        trained = replace(
            fold,
            weights=w,
            buffers=buffers,
            optimizer_state=optimizer_state,
            inner_steps=end,
            inner_gradient_start=start,
        )
        return trained, float(loss), tuple(kept)

    def reach(self, optimizer_state: Tensors, inner_steps: int) -> float:
        """How far so many inner steps have moved the weights for each unit of a constant gradient."""
        return self._optimizer.reach(optimizer_state, inner_steps)

    def gradient_norm(self, fold: FoldState, hparams: Tensors, n_batches: int) -> float:
        """‖∂f/∂w‖ at the fold's weights over all training examples, estimated from batches.

        The norm of one batch's gradient stays above zero at a minimum. With N batches in a pass over the examples, an
        unbiased estimate of ‖∂f/∂w‖² is (N − 1) / N times the mean of g_iᵀg_j over pairs of different batches, plus
        1 / N times the mean of ‖g_i‖². If all N are measured, it is exact.

        Args:
            n_batches: at most so many; they are the first of the next pass.
        """
        total, squares, values = torch.zeros_like(fold.weights), 0.0, self._bilevel.values(hparams)
        per_pass = self.source.per_pass
        n, first = min(n_batches, per_pass), math.ceil(fold.inner_steps / per_pass) * per_pass
        with restored(total.device) as reseed:
            for k in range(first, first + n):
                reseed(self._draws(k))
                _, gradient, _ = self._gradient(fold.weights, fold.buffers, values, self.source[k])
                gradient = self.share.mean(gradient)
                total += gradient
                squares += float(vector_norm(gradient, dtype=torch.float64)) ** 2
        between = float(vector_norm(total, dtype=torch.float64)) ** 2 - squares
        pairs = between / (n * (n - 1)) if n > 1 else 0.0
        return math.sqrt(max(0.0, (pairs * (per_pass - 1) + squares / n) / per_pass))

    def pull(self, step: InnerStep, hparams: Tensors, after: Adjoint) -> tuple[Adjoint, Tensors]:
        """Take `step` again, and back-propagate derivatives through it.

        Args:
            after: derivatives by the weights and the optimizer state after the step.

        Returns:
            Derivatives by the weights and the optimizer state before the step, and by each hyperparameter.
        """
        w = step.w.detach().requires_grad_()
        free = {name: value.detach().requires_grad_() for name, value in hparams.items()}
        state = {name: value.detach().requires_grad_() for name, value in step.optimizer_state.items()}
        with randomness(self._draws(step.k), w.device), twice_differentiable():
            loss, _ = self._loss(w, step.buffers, self._bilevel.values(free), self.source[step.k])
            (ours,) = torch.autograd.grad(loss, w, create_graph=True)
        gradient = self.share.mean(ours.detach()).requires_grad_()
        (clipped,) = self._optimizer.clip([gradient])
        ended, ended_state = self._optimizer.step(w, clipped, state, step.k)

        # First through the update, which sees the mean gradient, then through this process's part of that.
        outputs = [ended, *(ended_state[name] for name in state)]
        incoming = [after.w, *(after.optimizer_state[name] for name in state)]
        by_gradient, by_w, *by_state = _pulled(outputs, [gradient, w, *state.values()], incoming)
        through = [self.share.mean(p) for p in _pulled([ours], [w, *free.values()], [by_gradient])]
        before = Adjoint(by_w + through[0], dict(zip(state, by_state, strict=True)))
        return before, dict(zip(free, through[1:], strict=True))

    def _draws(self, k: int) -> int:
        """The seed of the random draws of step number `k`."""
        return self.group.seed(derive_seed(self.seed, "inner", k))

    def _gradient(self, w: Tensor, buffers: Tensors, values: Tensors, batch: Batch) -> tuple[Tensor, Tensor, Tensors]:
        """The loss, ∂f/∂w, and the buffers afterwards."""
        at = w.detach().requires_grad_()
        loss, buffers = self._loss(at, buffers, values, batch)
        (gradient,) = torch.autograd.grad(loss, at)
        return loss.detach(), gradient, {name: buffer.detach() for name, buffer in buffers.items()}

    def _loss(self, w: Tensor, buffers: Tensors, values: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        return self._bilevel.train_loss_at(self._ravel.tree(w), buffers, values, batch)


def _copied(named: Tensors) -> Tensors:
    return {name: value.clone() for name, value in named.items()}


def _pulled(outputs: Sequence[Tensor], inputs: Sequence[Tensor], incoming: Sequence[Tensor]) -> list[Tensor]:
    """Derivatives by `inputs`, given those by `outputs`; zero if the outputs do not depend on an input."""
    connected = [(o, a) for o, a in zip(outputs, incoming, strict=True) if o.requires_grad]
    if not connected:
        return [torch.zeros_like(at) for at in inputs]
    pulled = grad_or_none([o for o, _ in connected], inputs, [a for _, a in connected])
    return [torch.zeros_like(at) if p is None else p for at, p in zip(inputs, pulled, strict=True)]
