"""The loop: warm-started bilevel training as a generator, so that the caller decides what a step is for."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from nestor import options
from nestor_engine.autodiff.trace_cache import Traces
from nestor_engine.config import Config
from nestor_engine.data.folds import Partition
from nestor_engine.data.splits import Data, chunks, size_of
from nestor_engine.distributed import ALONE, Group
from nestor_engine.errors import Diverged
from nestor_engine.implementations import implementation
from nestor_engine.objective import Bilevel, PyTree, Tensors
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.responses import Moment
from nestor_engine.tensors.random import derive_seed, randomness
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.diagnostics import advice
from nestor_engine.training.fold_data import Course
from nestor_engine.training.inner_loop import InnerLoop
from nestor_engine.training.metrics import cosine, norm, summarise
from nestor_engine.training.state import State
from nestor_engine.training.step import Step

# Seconds of hypergradients to come, of which a trace saves about half, and most on a GPU; it takes one to five.
TRACING_PAYS = {"cpu": 10.0, "cuda": 4.0}
EVALUATION_BATCH = 1024  # examples at a time; no gradients are kept, so this only bounds memory


def optimise(
    bilevel: Bilevel,
    data: Data,
    config: options.Config,
    state: State | None = None,
    group: Group = ALONE,
    known: Traces | None = None,
) -> Iterator[Step]:
    """Tune hyperparameters inside one training [1, Algorithm 2], yielding after every outer step.

    Weights are never initialised again: each outer step starts from those of the step before.

    Args:
        bilevel: the problem, on the device to run on.
        data: on the same device.
        config: how to tune.
        state: where to go on, on any device; the beginning by default. It is not written to.
        group: the processes that do this together, each with the same arguments; this one alone by default.
        known: traces of the same problem, which pay from the first step on, and where new ones are kept.

    Raises:
        ConfigInvalid: the group cannot compute that.
        Diverged: a loss or the hypergradient is no longer finite.
        StateInvalid: the state is another problem's.

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """
    config = Config.of(config)
    config.check_devices(group.size)
    ravel = Ravel(bilevel.params)
    if state is None:
        state = State.initial(bilevel, config.inner, config.outer, config.seed)
    device = ravel.device
    state = state.expect(bilevel).to(device)
    outers = config.outers(bilevel.hparams)
    trained_as = bilevel if config.autocast is None else bilevel.autocast(getattr(torch, config.autocast))
    partition = Partition(data, config.folds, config.early_stopping, state.seed)
    courses = [
        Course.of(*partition.views(fold), bilevel, trained_as, ravel, config, state.seed, group)
        for fold in range(partition.folds)
    ]
    known = known or Traces()
    traces = known if config.trace or (config.trace is None and known.are_known) else None

    while not config.has_ended(state.step, state.waited):
        number = state.step + 1
        if config.folds is not None:
            state = state.turn(
                config.folds.active_fold(number - 1), config.folds.active_fold(number), bilevel, config.inner
            )
        course = courses[config.folds.active_fold(number) if config.folds else 0]
        if state.inner_steps == 0 and config.warmup_steps:
            state, *_ = course.training.run(state, config.warmup_steps)
        started, gathered = time.perf_counter(), course.seconds
        state, train_loss, kept = course.training.run(state, config.inner_steps, keep=config.response.unrolls)
        _finite(train_loss, number, "training loss", "inner optimizer")

        trained = time.perf_counter()
        moment = Moment(
            bilevel, ravel, state.weights, state.buffers, state.hparams,
            course.curvature[number - 1], course.val[number - 1], course.training, kept, state.inner, traces,
            course.objective, course.curvature.share, course.val.share,
        )  # fmt: skip
        memory = dict(state.memory)
        with randomness(group.seed(derive_seed(state.seed, "outer", number)), device):
            hyper = config.response.hypergradient(moment, memory)
        length = norm(hyper.gradient)
        _finite(hyper.evaluation["loss"], number, "validation loss", "inner optimizer")
        _finite(length, number, "hypergradient", "inner optimizer or the outer one")
        turned = cosine(hyper.gradient, state.previous)
        hparams, slots = _outer_step(bilevel, state, config.outer, outers, hyper.gradient)
        summaries = summarise(bilevel, state.hparams, hparams, hyper.gradient)
        ratio = _ratio(hyper.inner_gradient_norm, state.inner_gradient_start)
        told = {t: s for t, s in advice(number, hyper, ratio, summaries) if t not in state.warned}
        state = replace(
            state,
            hparams=hparams,
            outer=slots,
            memory=memory,
            previous=hyper.gradient,
            warned=[*state.warned, *told],
            step=number,
        )

        differentiated = time.perf_counter()
        if config.trace is None and traces is None:
            # Whether a clock says so or not: the bits are the same.
            pays = (differentiated - trained) * (config.n_steps - number) > TRACING_PAYS[device.type]
            traces = known if group.any([pays])[0] else None
        at = ravel.tree(state.weights), state.buffers, state.hparams
        held_out_loss = None
        if partition.held_out is not None:
            held_out_loss = evaluate(bilevel, *at, partition.held_out, group)["loss"]
            _finite(held_out_loss, number, "held-out loss", "inner optimizer")
            state, held_out_loss = state.judged(held_out_loss, partition.folds)
        tested, is_last = {}, config.has_ended(number, state.waited)
        if data.test is not None and (number % config.evaluate_every == 0 or is_last):
            tested = evaluate(bilevel, *at, data.test, group)
        val_loss = hyper.evaluation.pop("loss")
        yield Step(
            number=number,
            train_loss=train_loss,
            val_loss=val_loss,
            val_metrics=hyper.evaluation,
            held_out_loss=held_out_loss,
            test_loss=tested.pop("loss", None),
            test_metrics=tested,
            hypergradient_norm=length,
            hypergradient_cosine=turned,
            inner_gradient_norm=hyper.inner_gradient_norm,
            inner_gradient_ratio=ratio,
            outcome=hyper.solution.outcome.name if hyper.solution else None,
            residual=hyper.solution.residual if hyper.solution else None,
            products=hyper.products,
            traced=hyper.traced,
            alpha=hyper.solution.alpha if hyper.solution else None,
            alpha_norm=hyper.solution.alpha_norm if hyper.solution else None,
            hyperparameters=summaries,
            seconds={
                "inner": trained - started,
                "hypergradient": differentiated - trained,
                "products": hyper.products_seconds,
                "data": course.seconds - gathered,
                "evaluation": time.perf_counter() - differentiated,
            },
            warnings=(*told.values(), *(traces.news() if traces else ())),
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
    inner: options.Optimizer | None = None,
    batch_size: int = 128,
    hparams: Tensors | None = None,
    seed: int = 0,
) -> Fitted:
    """Train the weights from their initial values under fixed hyperparameters: a baseline, or a final refit.

    Args:
        train: columns to train on; not necessarily those that were tuned on.
        n_steps: inner steps.
        inner: the optimizer of the weights; `nestor.Adam()` by default.
        batch_size: training examples in a batch.
        hparams: as optimised; the problem's initial ones by default.

    Raises:
        Diverged: the training loss is no longer finite.
    """
    optimizer: Optimizer = implementation(options.Adam() if inner is None else inner)
    ravel = Ravel(bilevel.params)
    state = State.initial(bilevel, optimizer, optimizer, seed, hparams)
    state, loss, _ = InnerLoop(bilevel, ravel, train, optimizer, seed, batch_size=batch_size).run(state, n_steps)
    _finite(loss, n_steps, "training loss", "optimizer")
    return Fitted(ravel.tree(state.weights), state.buffers, loss)


def evaluate(
    bilevel: Bilevel,
    params: PyTree,
    buffers: Tensors,
    hparams: Tensors,
    columns: Tensors,
    group: Group = ALONE,
) -> dict[str, float]:
    """The validation loss (as `loss`) and the metrics over a whole split: means over its examples."""
    share = group.share(size_of(columns))
    n = share.part.stop - share.part.start
    totals: dict[str, float] = {}
    with torch.no_grad():
        for batch in chunks(columns, EVALUATION_BATCH, share.part):
            for name, value in bilevel.evaluate(params, buffers, hparams, batch).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(batch["index"])
    means = {name: torch.tensor(total / n, dtype=torch.float64, device=group.device) for name, total in totals.items()}
    return {name: float(mean) for name, mean in share.means(means).items()}


def _outer_step(
    bilevel: Bilevel, state: State, outer: Optimizer, outers: dict[str, Optimizer], gradient: Tensors
) -> tuple[Tensors, dict[str, Tensors]]:
    """Hyperparameters and slots after one outer update, projected onto the bounds."""
    clipped = dict(zip(gradient, outer.clip(list(gradient.values())), strict=True))
    hparams, slots = {}, {}
    for name, value in state.hparams.items():
        moved, slots[name] = outers[name].update(value, clipped[name], state.outer[name], state.step)
        hparams[name] = moved.clamp(*bilevel.bounds[name]) if name in bilevel.bounds else moved
    return hparams, slots


def _ratio(norm: float | None, start: float | None) -> float | None:
    return norm / start if norm is not None and start else None


def _finite(value: float, step: int, what: str, where: str) -> None:
    if not math.isfinite(value):
        raise Diverged(step=step, what=what, where=where)
