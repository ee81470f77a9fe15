"""The loop: warm-started bilevel training as a generator, so that the caller decides what a step is for."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from nestor_engine.bilevel import Bilevel, PyTree, Tensors
from nestor_engine.config import Config
from nestor_engine.data import Batches, Data, chunks, size_of
from nestor_engine.errors import Diverged
from nestor_engine.flat import Ravel
from nestor_engine.inner import InnerLoop
from nestor_engine.optimizers import Adam, Optimizer
from nestor_engine.responses import Hypergradient, Moment
from nestor_engine.seeding import derive_seed, randomness
from nestor_engine.solvers import Outcome
from nestor_engine.state import State

EVALUATION_BATCH = 1024  # examples at a time; no gradients are kept, so this only bounds memory


@dataclass(frozen=True)
class Step:
    """One outer update of the hyperparameters, with the inner steps before it. Losses are means over examples.

    Attributes:
        number: from 1.
        train_loss: on the last inner batch, before its update; the hyperparameters' terms included.
        val_loss, val_metrics: on this step's validation batch, at the weights that the inner steps reached.
        test_loss, test_metrics: on the whole test set, every `evaluate_every` steps and at the last.
        hypergradient_norm, hypergradient_cosine: over all hyperparameters; cosine with the step before.
        inner_gradient_norm: ‖∂f/∂w‖ where the hypergradient was taken; the implicit function theorem assumes zero.
        outcome, residual, products, alpha: of the adjoint system's solve; None for a response that solves none.
        seconds: wall time in the inner steps, the hypergradient and the evaluation.
        warnings: sentences with a remedy, each given once in a trajectory.
        state: where the trajectory stands after this step; replaced, not changed, by later steps.
    """

    number: int
    train_loss: float
    val_loss: float
    hypergradient_norm: float
    inner_gradient_norm: float | None
    outcome: str | None
    state: State = field(repr=False)
    test_loss: float | None = None
    val_metrics: dict[str, float] = field(default_factory=dict)
    test_metrics: dict[str, float] = field(default_factory=dict)
    hypergradient_cosine: float | None = None
    residual: float | None = None
    products: int = 0
    alpha: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Everything but the state, as plain data. What is not finite is None, and a metric that is not is left out."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "state"}
        for metrics in ("val_metrics", "test_metrics"):
            plain[metrics] = {name: value for name, value in plain[metrics].items() if math.isfinite(value)}
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in plain.items()}


def optimise(bilevel: Bilevel, data: Data, config: Config, state: State | None = None) -> Iterator[Step]:
    """Tune hyperparameters inside one training [1, Algorithm 2], yielding after every outer step.

    Weights are never initialised again: each outer step starts from those of the step before.

    Args:
        bilevel: the problem, on the device to run on.
        data: on the same device.
        config: how to tune.
        state: where to go on; the beginning by default. It is not written to.

    Raises:
        Diverged: a loss or the hypergradient is no longer finite.
        StateInvalid: the state is another problem's.

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """
    ravel = Ravel(bilevel.params)
    if state is None:
        state = State.initial(bilevel, config.inner, config.outer, config.seed)
    state.expect(bilevel)
    device = state.weights.device
    training = InnerLoop(bilevel, ravel, data.train, config.inner, state.seed)
    curvature_batches = Batches(data.train, config.inner.batch_size, derive_seed(state.seed, "curvature"))
    val_batches = Batches(data.val, config.outer.batch_size, derive_seed(state.seed, "val"))

    if state.inner_steps == 0 and config.warmup_steps:
        state, *_ = training.run(state, config.warmup_steps)
    while state.step < config.n_steps:
        number = state.step + 1
        started = time.perf_counter()
        state, train_loss, kept = training.run(state, config.inner.steps or 1, keep=config.response.unrolls)
        _finite(train_loss, number, "training loss", "inner optimizer")

        trained = time.perf_counter()
        moment = Moment(
            bilevel, ravel, state.weights, state.buffers, state.hparams,
            curvature_batches[number - 1], val_batches[number - 1], training, kept,
        )  # fmt: skip
        memory = dict(state.memory)
        with randomness(derive_seed(state.seed, "outer", number), device):
            hyper = config.response.hypergradient(moment, memory)
        norm = _norm(hyper.gradient)
        _finite(hyper.evaluation["loss"], number, "validation loss", "inner optimizer")
        _finite(norm, number, "hypergradient", "inner optimizer or the outer one")
        cosine = _cosine(hyper.gradient, state.previous, norm)
        told, warned = _warnings(hyper, state.warned)
        state = _outer_step(state, config.outer, hyper, memory, warned)

        differentiated = time.perf_counter()
        tested = {}
        if data.test is not None and (number % config.evaluate_every == 0 or number == config.n_steps):
            tested = evaluate(bilevel, ravel.tree(state.weights), state.buffers, state.hparams, data.test)
        val_loss = hyper.evaluation.pop("loss")
        yield Step(
            number=number,
            train_loss=train_loss,
            val_loss=val_loss,
            val_metrics=hyper.evaluation,
            test_loss=tested.pop("loss", None),
            test_metrics=tested,
            hypergradient_norm=norm,
            hypergradient_cosine=cosine,
            inner_gradient_norm=hyper.inner_gradient_norm,
            outcome=hyper.solution.outcome.name if hyper.solution else None,
            residual=hyper.solution.residual if hyper.solution else None,
            products=hyper.products,
            alpha=hyper.solution.alpha if hyper.solution else None,
            seconds={
                "inner": trained - started,
                "hypergradient": differentiated - trained,
                "evaluation": time.perf_counter() - differentiated,
            },
            warnings=told,
            state=state,
        )


@dataclass(frozen=True)
class Fitted:
    """Weights and buffers after plain training."""

    params: PyTree
    buffers: Tensors
    train_loss: float


def fit(
    bilevel: Bilevel,
    train: Tensors,
    *,
    n_steps: int,
    inner: Optimizer | None = None,
    hparams: Tensors | None = None,
    seed: int = 0,
) -> Fitted:
    """Train the weights from their initial values under fixed hyperparameters: a baseline, or a final refit.

    Args:
        train: columns to train on; not necessarily those that were tuned on.
        n_steps: inner steps.
        hparams: as optimised; the problem's initial ones by default.

    Raises:
        Diverged: the training loss is no longer finite.
    """
    inner = inner or Adam()
    ravel = Ravel(bilevel.params)
    state = State.initial(bilevel, inner, inner, seed)
    state.hparams = hparams or state.hparams
    state, loss, _ = InnerLoop(bilevel, ravel, train, inner, seed).run(state, n_steps)
    _finite(loss, n_steps, "training loss", "optimizer")
    return Fitted(ravel.tree(state.weights), state.buffers, loss)


def evaluate(
    bilevel: Bilevel, params: PyTree, buffers: Tensors, hparams: Tensors, columns: Tensors
) -> dict[str, float]:
    """The validation loss (as `loss`) and the metrics over a whole split: means over its examples."""
    totals: dict[str, float] = {}
    with torch.no_grad():
        for batch in chunks(columns, EVALUATION_BATCH):
            for name, value in bilevel.evaluate(params, buffers, hparams, batch).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(batch["index"])
    return {name: total / size_of(columns) for name, total in totals.items()}


def _outer_step(state: State, outer: Optimizer, hyper: Hypergradient, memory: Tensors, warned: list[str]) -> State:
    hparams, slots = {}, {}
    for name, value in state.hparams.items():
        hparams[name], slots[name] = outer.update(value, hyper.gradient[name], state.outer[name])
    return replace(
        state, hparams=hparams, outer=slots, memory=memory, previous=hyper.gradient, warned=warned, step=state.step + 1
    )


def _finite(value: float, step: int, what: str, where: str) -> None:
    if not math.isfinite(value):
        raise Diverged(step=step, what=what, where=where)


def _warnings(hyper: Hypergradient, warned: list[str]) -> tuple[tuple[str, ...], list[str]]:
    outcome = hyper.solution.outcome if hyper.solution else None
    if outcome is None or outcome in (Outcome.converged, Outcome.truncated) or outcome.name in warned:
        return (), warned
    return (outcome.value,), [*warned, outcome.name]


def _norm(named: Tensors) -> float:
    return float(torch.stack([value.double().norm() for value in named.values()]).norm())


def _cosine(a: Tensors, b: Tensors, norm: float) -> float | None:
    if not b:
        return None
    lengths = norm * _norm(b)
    return float(sum((a[n].double() * b[n].double()).sum() for n in a)) / lengths if lengths > 0 else None
