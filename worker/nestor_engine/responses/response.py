"""The interface of responses: the context of an outer step, and the hypergradient."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor import options
from nestor_engine.autodiff.gradients import grad_or_none
from nestor_engine.autodiff.kernels import native_recurrence
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.autodiff.replay import Recorded
from nestor_engine.autodiff.trace_cache import TraceCache
from nestor_engine.distributed import WHOLE, Share
from nestor_engine.implementations import Implementation
from nestor_engine.measuring.collector import Collector
from nestor_engine.objective import Batch, Bilevel, PyTree, Tensors
from nestor_engine.optim.optimizers import SGD
from nestor_engine.solvers import Solution
from nestor_engine.tensors.part_state import NoState, PartState
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.inner_loop import InnerLoop, InnerStep

STEPS_BEFORE_RECORDING = 5  # outer steps on a GPU before the objective is recorded as a CUDA graph


def outer_objective(bilevel: Bilevel, ravel: Ravel) -> Recorded:
    """(w, buffers, hparams, batch) ↦ the loss, its gradients by w and each hyperparameter, and the outputs.

    The loss is a list: of the mean alone, or of sum and weight, each with gradients of its own. A gradient is None if
    the loss does not depend on the tensor. The outputs are None if no metric reads them.
    """

    def gradients(
        w: Tensor, buffers: Tensors, hparams: Tensors, batch: Batch
    ) -> tuple[list[Tensor], list[list[Tensor | None]], PyTree]:
        w = w.detach().requires_grad_()
        free = {name: value.detach().requires_grad_() for name, value in hparams.items()}
        with native_recurrence():
            values = bilevel.values(free)
            outputs = bilevel.predict(ravel.tree(w), buffers, values, batch)
            loss = bilevel.val_loss(outputs, values, batch)
        parts = [*loss] if isinstance(loss, tuple) else [loss]
        at = [w, *free.values()]
        slopes: list[list[Tensor | None]] = []
        for part in parts:
            # A weight often has no gradient. A loss without one is an error, which torch raises.
            differs = part.requires_grad or part is parts[0]
            slopes.append(
                [*grad_or_none(part, at, retain_graph=part is not parts[-1])] if differs else [None] * len(at)
            )
        is_read = bilevel.metrics is None or bool(bilevel.metrics)
        return [part.detach() for part in parts], slopes, _detached(outputs) if is_read else None

    return Recorded(gradients, after=STEPS_BEFORE_RECORDING)


def _detached(outputs: PyTree) -> PyTree:
    def detached(leaf: object) -> object:
        return leaf.detach() if isinstance(leaf, Tensor) else leaf

    return pytree.tree_map(detached, outputs)


@dataclass(frozen=True, kw_only=True)
class OuterStepContext:
    """Everything that a response needs at one outer step.

    Attributes:
        w: weights, shape (n,).
        train, val: the batches at which the two objectives are differentiated.
        inner_loop, inner_steps: the inner loop, and the starts of its last steps before this outer step.
        optimizer_state: that of the inner optimizer, named vectors of shape (n,).
        trained: inner steps that were taken so far.
        trace_cache: that of the trial; None while tracing does not pay.
        objective: g and its gradients, as `outer_objective` makes them, kept for a trial.
        train_share, val_share: the parts of the whole batches that `train` and `val` are.
    """

    bilevel: Bilevel
    ravel: Ravel
    w: Tensor
    buffers: Tensors
    hparams: Tensors
    train: Batch
    val: Batch
    inner_loop: InnerLoop
    objective: Recorded
    inner_steps: Sequence[InnerStep] = ()
    optimizer_state: Tensors = field(default_factory=dict)
    trained: int = 0
    trace_cache: TraceCache | None = None
    train_share: Share = WHOLE
    val_share: Share = WHOLE

    @staticmethod
    def at(
        bilevel: Bilevel,
        w: Tensor,
        train: Batch,
        val: Batch,
        *,
        buffers: Tensors | None = None,
        hparams: Tensors | None = None,
        optimizer_state: Tensors | None = None,
        inner_loop: InnerLoop | None = None,
        inner_steps: Sequence[InnerStep] = (),
        trace_cache: TraceCache | None = None,
    ) -> OuterStepContext:
        """An outer step at any weights, outside of a trial.

        Args:
            buffers, hparams: the problem's own by default.
            inner_loop: by default SGD without momentum on `train`.
        """
        ravel = Ravel(bilevel.params)
        return OuterStepContext(
            bilevel=bilevel,
            ravel=ravel,
            w=w,
            buffers=bilevel.buffers if buffers is None else buffers,
            hparams=bilevel.hparams if hparams is None else hparams,
            train=train,
            val=val,
            inner_loop=inner_loop or InnerLoop(bilevel, ravel, train, SGD(), seed=0),
            inner_steps=inner_steps,
            objective=outer_objective(bilevel, ravel),
            optimizer_state=optimizer_state or {},
            trace_cache=trace_cache,
        )

    def linearization(self) -> Linearization:
        """f and its derivatives at `w` on `train`."""
        return Linearization(
            self.bilevel,
            self.ravel,
            self.w,
            self.buffers,
            self.hparams,
            self.train,
            optimizer_state=self.optimizer_state,
            reach=lambda: self.inner_loop.reach(self.optimizer_state, self.trained),
            trace_cache=self.trace_cache,
            share=self.train_share,
        )

    def outer(self) -> Outer:
        """g and its gradients at `w` on `val`, and the metrics there, on the examples of all processes."""
        parts, slopes, outputs = self.objective(self.w, self.buffers, self.hparams, self.val)
        mean, total = self.val_share.mean, self.val_share.total
        wanted = [self.w, *self.hparams.values()]
        if len(parts) == 1:
            loss, combined = mean(parts[0]), [mean(self._filled(*pair)) for pair in zip(wanted, slopes[0], strict=True)]
        else:
            weight = total(parts[1])
            loss = total(parts[0]) / weight
            combined: list[Tensor] = []
            for at, by_sum, by_weight in zip(wanted, *slopes, strict=True):
                slope = total(self._filled(at, by_sum)) / weight
                combined.append(slope if by_weight is None else slope - total(by_weight) * (loss / weight))
        evaluation = {"loss": float(loss), **self._metrics(outputs)}
        return Outer(evaluation, combined[0], dict(zip(self.hparams, combined[1:], strict=True)))

    def _filled(self, at: Tensor, slope: Tensor | None) -> Tensor:
        if slope is None:
            # Expanded zeros take no memory: most hyperparameters have no direct term, and may be as many as weights.
            return at.new_zeros(()).expand_as(at)
        return slope.clone() if self.objective.is_recorded else slope

    @torch.no_grad()
    def _metrics(self, outputs: PyTree) -> dict[str, float]:
        """Those of `val`, from the outputs for it."""
        metrics = None if outputs is None else self.bilevel.metrics_of(outputs)
        if not metrics:
            return {}
        collector = Collector(metrics, self.bilevel.values(self.hparams), self.val_share)
        collector.add(outputs, self.val)
        return collector.results()

    def pull_initial(self, a: Tensor) -> Tensors:
        """(∂w_0/∂λ)ᵀ a for each hyperparameter; `a`, of shape (n,), is the derivative by the initial weights."""
        hparams = {name: value.detach().requires_grad_() for name, value in self.hparams.items()}
        w = self.ravel.vector(self.bilevel.initial(self.bilevel.params, self.bilevel.values(hparams)))
        nothing = (None,) * len(hparams)
        slopes = grad_or_none(w, list(hparams.values()), a) if w.requires_grad else nothing
        return {n: torch.zeros_like(h) if s is None else s for (n, h), s in zip(hparams.items(), slopes, strict=True)}


@dataclass(frozen=True)
class Outer:
    """The outer objective and its gradients.

    Attributes:
        evaluation: `loss`, which is g, and the metrics.
        by_w: ∂g/∂w, shape (n,).
        by_hparams: ∂g/∂λ, the direct term; zero if the validation loss does not read λ.
    """

    evaluation: dict[str, float]
    by_w: Tensor
    by_hparams: Tensors


@dataclass(frozen=True)
class Hypergradient:
    """dF/dλ and measurements of its computation.

    Attributes:
        gradient: hyperparameter → gradient of its shape.
        evaluation: the validation loss and metrics at this outer step.
        inner_gradient_norm: ‖∂f/∂w‖, which the implicit function theorem assumes to be zero; None if not computed.
        solution: of the adjoint system, or of the response's own system; None for responses without one.
        products: curvature products, including those for the norm and the residual.
        traced: whether these came from a trace.
        products_seconds: wall time from taking the curvature to the solution of the adjoint system.
    """

    gradient: Tensors
    evaluation: dict[str, float]
    inner_gradient_norm: float | None = None
    solution: Solution | None = None
    products: int = 0
    traced: bool = False
    products_seconds: float = 0.0


S = TypeVar("S", bound=PartState)


class Response(options.Response, Implementation, abc.ABC, Generic[S]):
    """A method to compute the hypergradient."""

    @abc.abstractmethod
    def init(self) -> S:
        """The state before the first outer step."""

    @abc.abstractmethod
    def hypergradient(self, context: OuterStepContext, state: S) -> tuple[Hypergradient, S]:
        """dF/dλ at one outer step, and the state for the next one."""

    def hypergradient_at(self, context: OuterStepContext) -> Hypergradient:
        """dF/dλ without a state from earlier outer steps."""
        return self.hypergradient(context, self.init())[0]


class StatelessResponse(Response[NoState]):
    """A response without a state."""

    def init(self) -> NoState:
        """The empty state."""
        return NoState()
