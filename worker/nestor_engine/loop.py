"""The loop: warm-started bilevel training as a generator, so that the caller decides what a step is for."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from nestor_engine.bilevel import Batch, Bilevel, PyTree, Tensors
from nestor_engine.config import Config
from nestor_engine.data import Batches, Data, chunks, derive_seed, size_of
from nestor_engine.errors import Diverged
from nestor_engine.flat import Ravel
from nestor_engine.optimizers import Adam, Optimizer
from nestor_engine.response import Hypergradient
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
        inner_gradient_norm: ‖∂f/∂w‖ where the hypergradient was taken; the theorem assumes zero.
        outcome, residual, products, alpha: of the adjoint system's solve.
        seconds: wall time in the inner steps, the hypergradient and the evaluation.
        warnings: sentences with a remedy, each given once in a trajectory.
        state: where the trajectory stands after this step; replaced, not changed, by later steps.
    """

    number: int
    train_loss: float
    val_loss: float
    hypergradient_norm: float
    inner_gradient_norm: float
    outcome: str
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
        """Everything but the state, as plain data; a number that is not finite becomes None."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "state"}
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
    training = _Training(bilevel, ravel, data.train, config.inner, state.seed)
    curvature_batches = Batches(data.train, config.inner.batch_size, derive_seed(state.seed, "curvature"))
    val_batches = Batches(data.val, config.outer.batch_size, derive_seed(state.seed, "val"))

    if state.inner_steps == 0 and config.warmup_steps:
        state, _ = training.run(state, config.warmup_steps)
    while state.step < config.n_steps:
        number = state.step + 1
        started = time.perf_counter()
        state, train_loss = training.run(state, config.inner.steps or 1)
        _finite(train_loss, number, "training loss", "inner optimizer")

        trained = time.perf_counter()
        memory = dict(state.memory)
        with randomness(derive_seed(state.seed, "outer", number), device):
            hyper = config.response.hypergradient(
                bilevel, ravel, state.weights, state.buffers, state.hparams,
                curvature_batches[number - 1], val_batches[number - 1], memory,
            )  # fmt: skip
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
            outcome=hyper.solution.outcome.name,
            residual=hyper.solution.residual,
            products=hyper.products,
            alpha=hyper.solution.alpha,
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
    state, loss = _Training(bilevel, ravel, train, inner, seed).run(state, n_steps)
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


@contextmanager
def randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from torch's generators as if seeded here, and leave them as they were."""
    # Not torch.manual_seed: it keeps a traceback for every backend that has not started, at every call.
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(
            torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
        )
    before = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


class _Training:
    """Inner steps: one batch, one gradient, one update, from the weights as they stand."""

    def __init__(self, bilevel: Bilevel, ravel: Ravel, train: Tensors, inner: Optimizer, seed: int) -> None:
        self._bilevel, self._ravel, self._inner, self._seed = bilevel, ravel, inner, seed
        self._batches = Batches(train, inner.batch_size or 128, derive_seed(seed, "train"))

    def run(self, state: State, steps: int) -> tuple[State, float]:
        """The state after `steps` inner steps, and the loss before the last of them."""
        w, buffers, slots = state.weights, state.buffers, state.inner
        loss = torch.tensor(math.nan)
        for k in range(state.inner_steps, state.inner_steps + steps):
            with randomness(derive_seed(self._seed, "inner", k), w.device):
                loss, buffers, gradient = self._gradient(w, buffers, state.hparams, self._batches[k])
            w, slots = self._inner.update(w, gradient, slots)
        return _evolve(state, weights=w, buffers=buffers, inner=slots, inner_steps=state.inner_steps + steps), float(
            loss
        )

    def _gradient(self, w: Tensor, buffers: Tensors, hparams: Tensors, batch: Batch) -> tuple[Tensor, Tensors, Tensor]:
        w = w.detach().requires_grad_()
        loss, buffers = self._bilevel.train_loss(self._ravel.tree(w), buffers, hparams, batch)
        (gradient,) = torch.autograd.grad(loss, w)
        return loss.detach(), {name: b.detach() for name, b in buffers.items()}, gradient


def _outer_step(state: State, outer: Optimizer, hyper: Hypergradient, memory: Tensors, warned: list[str]) -> State:
    hparams, slots = {}, {}
    for name, value in state.hparams.items():
        hparams[name], slots[name] = outer.update(value, hyper.gradient[name], state.outer[name])
    return _evolve(
        state, hparams=hparams, outer=slots, memory=memory, previous=hyper.gradient, warned=warned, step=state.step + 1
    )


def _evolve(state: State, **changes: Any) -> State:
    return State(**({f.name: getattr(state, f.name) for f in fields(state)} | changes))


def _finite(value: float, step: int, what: str, where: str) -> None:
    if not math.isfinite(value):
        raise Diverged(step=step, what=what, where=where)


def _warnings(hyper: Hypergradient, warned: list[str]) -> tuple[tuple[str, ...], list[str]]:
    outcome = hyper.solution.outcome
    if outcome in (Outcome.converged, Outcome.truncated) or outcome.name in warned:
        return (), warned
    return (outcome.value,), [*warned, outcome.name]


def _norm(named: Tensors) -> float:
    return float(torch.stack([value.double().norm() for value in named.values()]).norm())


def _cosine(a: Tensors, b: Tensors, norm: float) -> float | None:
    if not b:
        return None
    lengths = norm * _norm(b)
    return float(sum((a[n].double() * b[n].double()).sum() for n in a)) / lengths if lengths > 0 else None
