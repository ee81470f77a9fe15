"""The stages of an outer step, each from one state to the next."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch

from nestor.errors import Diverged
from nestor.schemas.steps import TensorSummary
from nestor_engine.autodiff.trace_cache import TraceCache
from nestor_engine.config import Config
from nestor_engine.data.folds import Partition
from nestor_engine.data.splits import Data, size_of
from nestor_engine.distributed import Group
from nestor_engine.hparams.positions import position_for_validation
from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.optim.levels import LevelAndDeviations
from nestor_engine.responses import Hypergradient, OuterStepContext
from nestor_engine.responses.response import outer_objective
from nestor_engine.tensors.part_state import from_tensors, to_tensors
from nestor_engine.tensors.random import derive_seed, randomness
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.diagnostics import BATCHES, advice, nonfinite_metrics
from nestor_engine.training.evaluator import Evaluator
from nestor_engine.training.fold_data import FoldData
from nestor_engine.training.inner_loop import InnerStep
from nestor_engine.training.metrics import cosines, norm, summarize
from nestor_engine.training.state import State
from nestor_engine.training.step import Step

# Expected seconds of hypergradients beyond which tracing pays: it takes 1 to 5 s, and saves half of them or more.
MIN_SECONDS_TO_TRACE = {"cpu": 10.0, "cuda": 4.0}


@dataclass(frozen=True)
class InnerResult:
    """What the inner steps of one outer step returned.

    Attributes:
        loss: before the last inner step's update.
        last_steps: where the last inner steps began; as many as the response unrolls.
        data_seconds: `FoldData.seconds` before the first inner step.
        started, ended: on `time.perf_counter`.
    """

    loss: float
    last_steps: tuple[InnerStep, ...]
    data_seconds: float
    started: float
    ended: float


@dataclass(frozen=True)
class OuterUpdate:
    """Numbers about one update of the hyperparameters. `ended`: on `time.perf_counter`; the others as in `Step`."""

    norm: float
    cosine: float | None
    inner_gradient_ratio: float | None
    summaries: dict[str, TensorSummary]
    warnings: tuple[str, ...]
    ended: float


class OuterStepStages:
    """The stages of an outer step for one problem, its data and its configuration.

    Everything that changes from step to step is in the `State`, except clocks and caches.

    Attributes:
        device: the device of the problem's tensors.
    """

    def __init__(
        self, bilevel: Bilevel, data: Data, config: Config, seed: int, group: Group, trace_cache: TraceCache
    ) -> None:
        self._bilevel, self._config, self._group = bilevel, config, group
        self._ravel = Ravel(bilevel.params)
        self.device = self._ravel.device
        trained_as = bilevel if config.autocast is None else bilevel.autocast(getattr(torch, config.autocast))
        stand_in = None if config.train_on == "train" else position_for_validation(bilevel, size_of(data.train))
        partition = Partition(data, config.folds, config.early_stopping, seed, stand_in)
        self._folds = [
            FoldData.of(partition.views(fold), trained_as, self._ravel, config, seed, group)
            for fold in range(partition.folds)
        ]
        steering = sum(data.val.examples for data in self._folds)
        transforms = {name: bilevel.transforms.get(name, "identity") for name in bilevel.hparams}
        self._outers = {
            name: LevelAndDeviations(outer, bilevel.hparams[name], bilevel.priors[name] / steering)
            if name in bilevel.priors
            else outer
            for name, outer in config.outers(transforms).items()
        }
        self._evaluator = Evaluator(bilevel, partition, data.test, group)
        self._objective = outer_objective(bilevel, self._ravel)
        self._trace_cache = trace_cache
        self._traces = bool(config.trace or (config.trace is None and trace_cache.is_warm))

    def activate_fold(self, state: State) -> State:
        """Activate the fold that the next outer step trains."""
        folds = self._config.folds
        number = folds.active_fold(state.step + 1) if folds else 0
        return state.activate_fold(number, self._bilevel, self._config.inner)

    def train_weights(self, state: State) -> tuple[State, InnerResult]:
        """Take the inner steps. A fold that has taken none takes its warm-up steps first.

        Raises:
            Diverged: the training loss is not finite.
        """
        config, data, fold = self._config, self._folds[state.active], state.active_fold
        if fold.inner_steps == 0 and config.warmup_steps:
            fold, *_ = data.inner_loop.run(fold, state.hparams, config.warmup_steps)
        started, data_seconds = time.perf_counter(), data.seconds
        fold, loss, last_steps = data.inner_loop.run(
            fold, state.hparams, config.inner_steps, keep=config.response.unrolls
        )
        if not math.isfinite(loss):
            raise Diverged(step=state.step + 1, what="training loss", where="inner optimizer")
        inner = InnerResult(loss, last_steps, data_seconds, started, time.perf_counter())
        return state.with_active_fold(fold), inner

    def take_hypergradient(self, state: State, inner: InnerResult) -> tuple[State, Hypergradient]:
        """Differentiate the outer objective at the weights that the inner steps reached.

        Raises:
            Diverged: the validation loss is not finite.
        """
        number, response, fold = state.step + 1, self._config.response, state.active_fold
        context = self._context(state, inner)
        kept = from_tensors(response.init(), fold.response)
        with randomness(self._group.seed(derive_seed(state.seed, "outer", number)), self.device):
            hypergradient, kept = response.hypergradient(context, kept)
        if not math.isfinite(hypergradient.evaluation["loss"]):
            raise Diverged(step=number, what="validation loss", where="inner optimizer")
        if self._config.trace is None and not self._traces:
            # A clock decides whether to trace from the next outer step on. The results do not depend on it.
            left = (time.perf_counter() - inner.ended) * (self._config.n_steps - number)
            self._traces = self._group.any([left > MIN_SECONDS_TO_TRACE[self.device.type]])[0]
        return state.with_active_fold(replace(fold, response=to_tensors(kept))), hypergradient

    def update_hparams(self, state: State, hypergradient: Hypergradient) -> tuple[State, OuterUpdate]:
        """Update the hyperparameters, and summarize the update.

        Raises:
            Diverged: the hypergradient is not finite.
        """
        number, gradient = state.step + 1, hypergradient.gradient
        length = norm(gradient)
        if not math.isfinite(length):
            raise Diverged(step=number, what="hypergradient", where="inner optimizer or the outer one")
        hparams, optimizer_state = self._updated(state, gradient)
        hypergradient_cosine, by_name = cosines(gradient, state.previous)
        summaries = summarize(self._bilevel, state.hparams, hparams, gradient, by_name)
        start = state.active_fold.inner_gradient_start
        inner_norm = hypergradient.inner_gradient_norm
        ratio = inner_norm / start if inner_norm is not None and start else None
        warnings = {
            topic: sentence
            for topic, sentence in advice(number, hypergradient, ratio, lambda: self._mean_ratio(state), summaries)
            if topic not in state.warned
        }
        update = OuterUpdate(
            norm=length,
            cosine=hypergradient_cosine,
            inner_gradient_ratio=ratio,
            summaries=summaries,
            warnings=tuple(warnings.values()),
            ended=time.perf_counter(),
        )
        state = replace(
            state,
            hparams=hparams,
            outer_optimizer_state=optimizer_state,
            previous=gradient,
            warned=[*state.warned, *warnings],
            step=number,
        )
        return state, update

    def evaluate_and_record(
        self, state: State, inner: InnerResult, hypergradient: Hypergradient, update: OuterUpdate, *, ends: bool
    ) -> Step:
        """Evaluate what is due, and collect all numbers of the outer step.

        Args:
            ends: the user ends the training after this step, so that it is evaluated in any case.

        Raises:
            Diverged: the held-out loss, or the loss on all validation examples, is not finite.
        """
        number, solution = state.step, hypergradient.solution
        state, evaluated = self._evaluator.on_held_out(state)
        held_out_loss = evaluated.get("loss")
        is_due = number % self._config.evaluate_every == 0 or self._config.has_ended(number, state.steps_since_best)
        if held_out_loss is None and (is_due or ends):
            evaluated = self._evaluator.on_validation(state)
        tested = self._evaluator.on_test(state) if is_due else {}
        val_metrics = dict(hypergradient.evaluation)
        unknown = dict(nonfinite_metrics({"validation": evaluated, "test": tested}))
        unknown |= dict(nonfinite_metrics({"validation": val_metrics}))
        unknown = {topic: sentence for topic, sentence in unknown.items() if topic not in state.warned}
        state = replace(state, warned=[*state.warned, *unknown])
        news = self._trace_cache.news() if self._traces else ()
        return Step(
            number=number,
            train_loss=inner.loss,
            val_loss=val_metrics.pop("loss"),
            val_examples=self._folds[state.active].val.batch_size,
            val_metrics=val_metrics,
            held_out_loss=held_out_loss,
            value=evaluated.pop("loss", None),
            metrics=evaluated,
            test_loss=tested.pop("loss", None),
            test_metrics=tested,
            hypergradient_norm=update.norm,
            hypergradient_cosine=update.cosine,
            inner_gradient_norm=hypergradient.inner_gradient_norm,
            inner_gradient_ratio=update.inner_gradient_ratio,
            outcome=solution.outcome.name if solution else None,
            residual=solution.residual if solution else None,
            products=hypergradient.products,
            traced=hypergradient.traced,
            alpha=solution.alpha if solution else None,
            alpha_norm=solution.alpha_norm if solution else None,
            hyperparameters=update.summaries,
            seconds={
                "inner": inner.ended - inner.started,
                "hypergradient": update.ended - inner.ended,
                "products": hypergradient.products_seconds,
                "data": self._folds[state.active].seconds - inner.data_seconds,
                "evaluation": time.perf_counter() - update.ended,
            },
            warnings=(*update.warnings, *unknown.values(), *news),
            state=state,
        )

    def _context(self, state: State, inner: InnerResult) -> OuterStepContext:
        data, fold = self._folds[state.active], state.active_fold
        return OuterStepContext(
            bilevel=self._bilevel,
            ravel=self._ravel,
            w=fold.weights,
            buffers=fold.buffers,
            hparams=state.hparams,
            train=data.curvature[state.step],
            val=data.val[state.step],
            inner_loop=data.inner_loop,
            objective=self._objective,
            inner_steps=inner.last_steps,
            optimizer_state=fold.optimizer_state,
            trained=fold.inner_steps,
            trace_cache=self._trace_cache if self._traces else None,
            train_share=data.curvature.share,
            val_share=data.val.share,
        )

    def _mean_ratio(self, state: State) -> float:
        """‖∂f/∂w‖ without the noise of batches, relative to that of the first inner step's batch."""
        fold = state.active_fold
        length = self._folds[state.active].inner_loop.gradient_norm(fold, state.hparams, BATCHES)
        return length / (fold.inner_gradient_start or math.nan)

    def _updated(self, state: State, gradient: Tensors) -> tuple[Tensors, dict[str, Tensors]]:
        """Hyperparameters and optimizer state after one outer update, projected onto the bounds."""
        if not self._config.response.tunes:
            return state.hparams, state.outer_optimizer_state
        clipped = dict(zip(gradient, self._config.outer.clip(list(gradient.values())), strict=True))
        hparams: Tensors = {}
        optimizer_state: dict[str, Tensors] = {}
        for name, value in state.hparams.items():
            updated, optimizer_state[name] = self._outers[name].step(
                value, clipped[name], state.outer_optimizer_state[name], state.step
            )
            bounds = self._bilevel.bounds.get(name)
            hparams[name] = updated if bounds is None else updated.clamp(*bounds)
        return hparams, optimizer_state
