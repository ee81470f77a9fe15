"""Differentiating through the optimizer: compared with autograd through the whole loop, and the slides' theorem."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor

import nestor_engine as engine
from nestor_engine.autodiff.kernels import native_recurrence, twice_differentiable
from nestor_engine.data.splits import Batches
from nestor_engine.hparams import InitializationScale
from nestor_engine.objective import Tensors
from nestor_engine.responses import OuterStepContext, Response
from nestor_engine.tensors.random import derive_seed, randomness
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.inner_loop import InnerLoop
from nestor_engine.training.state import FoldState
from tests.engine.cases import Dense, build, whole

INNER = [
    engine.SGD(0.05),
    engine.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    engine.Adam(0.02),
    engine.RMSprop(0.01, momentum=0.5),
    engine.AdamW(0.02, weight_decay=0.1, schedule=engine.CosineDecay(8, warmup=3), clip_norm=0.05),
]


def _trained(problem: engine.Problem, inner: engine.SGD, steps: int, keep: int, batch: int = 7) -> tuple:
    bilevel = problem.bilevel()
    loop = InnerLoop(bilevel, Ravel(bilevel.params), problem.data.train, inner, seed=3, batch_size=batch)
    start = FoldState.initial(bilevel, inner, bilevel.hparams)
    fold, _, kept = loop.run(start, bilevel.hparams, steps, keep=keep)
    return bilevel, inner, loop, fold, kept


def _hypergradient(problem: engine.Problem, response: Response, trained: tuple) -> Tensors:
    bilevel, _, loop, fold, kept = trained
    context = OuterStepContext.at(
        bilevel, fold.weights, whole(problem.data.train), whole(problem.data.val),
        buffers=fold.buffers, inner_loop=loop, inner_steps=kept,
    )  # fmt: skip
    return response.hypergradient_at(context).gradient


def _through_all_steps_at_once(problem: engine.Problem, trained: tuple) -> Tensors:
    """The hypergradient from one graph of all kept steps."""
    bilevel, inner, loop, fold, kept = trained
    ravel, batches = Ravel(bilevel.params), Batches(problem.data.train, loop.batch_size, derive_seed(3, "train"))
    hparams = {n: v.clone().requires_grad_() for n, v in bilevel.hparams.items()}
    w, buffers, optimizer_state = kept[0].w.detach().requires_grad_(), kept[0].buffers, kept[0].optimizer_state
    for step in kept:
        with randomness(derive_seed(3, "inner", step.k), w.device), twice_differentiable():
            loss, buffers = bilevel.train_loss(ravel.tree(w), buffers, hparams, batches[step.k])
        (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
        w, optimizer_state = inner.step(w, *inner.clip([gradient]), optimizer_state, step.k)
    torch.testing.assert_close(w.detach(), fold.weights)
    with native_recurrence():
        value = bilevel.val_loss_at(ravel.tree(w), fold.buffers, bilevel.values(hparams), whole(problem.data.val))
    return dict(zip(hparams, torch.autograd.grad(value, list(hparams.values())), strict=True))


@pytest.mark.parametrize("inner", INNER, ids=repr)
@pytest.mark.parametrize(
    "name", ["GELU MLP", "dropout", "CNN, BatchNorm in training mode", "LSTM", "attention and embedding"]
)
def test_the_adjoint_is_autograd_through_all_steps_at_once(name: str, inner):
    problem = build(name)
    trained = _trained(problem, inner, steps=6, keep=4)
    expected = _through_all_steps_at_once(problem, trained)

    got = _hypergradient(problem, engine.Unrolled(4), trained)

    for hparam in expected:
        torch.testing.assert_close(got[hparam], expected[hparam])


@pytest.mark.parametrize("inner", INNER, ids=repr)
def test_memory_for_graphs_does_not_grow_with_the_steps_that_are_gone_back(inner):
    """One graph of a step is in memory at a time; autograd through four steps holds four."""
    problem = build("GELU MLP")
    peaks = []
    for steps in (1, 4):
        trained = _trained(problem, inner, steps=4, keep=steps)
        with _SavedBytes() as saved:
            _hypergradient(problem, engine.Unrolled(steps), trained)
        peaks.append(saved.peak)
    with _SavedBytes() as saved:
        _through_all_steps_at_once(problem, _trained(problem, inner, steps=4, keep=4))
    assert peaks[1] == peaks[0]
    assert saved.peak > 3 * peaks[1]


class _SavedBytes:
    """Counts the bytes that graphs hold for their backward passes, and records the maximum."""

    def __init__(self) -> None:
        self.peak = self._now = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)

    def __enter__(self) -> _SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._hooks.__exit__(*raised)

    def _pack(self, tensor: Tensor) -> _Held:
        self._add(tensor.nbytes)
        held = _Held(tensor.detach())  # a node's own output, with its history, would hold the node
        weakref.finalize(held, self._add, -tensor.nbytes)
        return held

    def _add(self, nbytes: int) -> None:
        self._now += nbytes
        self.peak = max(self.peak, self._now)


class _Held:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_unrolling_i_steps_of_sgd_from_a_minimum_is_the_neumann_series(steps: int):
    """The slides' theorem: from w* the i unrolled steps sum to the i-term series, with α the learning rate."""
    problem = build("softmax regression")
    dense, alpha = Dense.of(problem), 0.3
    dense.w = dense.minimizer(dense.bilevel.hparams)
    problem = _with_weights(problem, dense)
    trained = _trained(problem, engine.SGD(alpha), steps, keep=steps, batch=10_000)

    unrolled = _hypergradient(problem, engine.Unrolled(steps), trained)
    series = engine.Implicit(engine.Hessian(), engine.Neumann(steps - 1, alpha=alpha))
    implicit = _hypergradient(problem, series, trained)

    for hparam in unrolled:
        torch.testing.assert_close(unrolled[hparam], implicit[hparam], rtol=1e-7, atol=1e-10)


def test_one_unrolled_step_from_a_minimum_is_t1_t2_times_the_learning_rate():
    problem = build("softmax regression")
    trained = _trained(problem, engine.SGD(0.1), 1, keep=1, batch=10_000)
    unrolled = _hypergradient(problem, engine.Unrolled(1), trained)
    bilevel, inner, loop, _, kept = trained
    before = FoldState.initial(bilevel, inner, bilevel.hparams)
    identity = _hypergradient(
        problem, engine.Implicit(engine.Hessian(), engine.Neumann(0, alpha=0.1)), (bilevel, inner, loop, before, kept)
    )
    # The validation gradient is taken after the step, the mixed derivative before it.
    assert _cosine(unrolled, identity) > 0.99


def test_unrolling_from_the_very_first_step_sees_the_scale_of_the_initial_weights():
    """Against training again from weights that are a little larger, and a little smaller."""
    model = build("GELU MLP").model
    problem = build("GELU MLP")
    problem = engine.Problem(
        model, InitializationScale(model, init=0.2), problem.train_loss, problem.val_loss,
        train=problem.data.train, val=problem.data.val,
    )  # fmt: skip
    inner = engine.Adam(0.02)
    whole_run = _trained(problem, inner, steps=4, keep=4)
    late_run = _trained(problem, inner, steps=4, keep=3)

    got = _hypergradient(problem, engine.Unrolled(4), whole_run)["initialization_scale"]
    late = _hypergradient(problem, engine.Unrolled(3), late_run)["initialization_scale"]

    for tensor in range(4):
        values = []
        for shift in (1e-5, -1e-5):
            scale = torch.full((4,), 0.2, dtype=torch.float64)
            scale[tensor] += shift
            problem.hparams.kinds[0].init["initialization_scale"] = scale
            bilevel, *_, fold, _ = _trained(problem, inner, steps=4, keep=0)
            params = Ravel(bilevel.params).tree(fold.weights)
            hparams = bilevel.values(bilevel.hparams)
            values.append(bilevel.val_loss_at(params, fold.buffers, hparams, whole(problem.data.val)))
        slope = float(values[0] - values[1]) / 2e-5
        assert got[tensor].item() == pytest.approx(slope, rel=1e-5)
    assert not late.any()


def test_a_hyperparameter_that_validation_does_not_read_has_no_direct_gradient():
    problem = build("GELU MLP")
    trained = _trained(problem, engine.SGD(0.1), 1, keep=0)
    gradient = _hypergradient(problem, engine.DirectOnly(), trained)
    assert all(not value.any() for value in gradient.values())


def test_more_steps_than_were_taken_are_refused_with_a_remedy():
    with pytest.raises(engine.errors.ConfigInvalid, match="raise inner_steps, or unroll fewer"):
        engine.Config(n_steps=2, inner=engine.SGD(0.1), inner_steps=3, response=engine.Unrolled(4))


@pytest.mark.cpu
def test_an_unrolled_trajectory_resumes_bitwise_and_descends():
    problem = build("dropout")
    config = engine.Config(n_steps=8, inner=engine.Adam(0.01), inner_steps=4, batch_size=7, response=engine.Unrolled(3))
    steps = list(engine.optimize(problem.bilevel(), problem.data, config))
    resumed = list(engine.optimize(problem.bilevel(), problem.data, config, engine.State.load(steps[3].state.save())))
    assert resumed[-1].state.save() == steps[-1].state.save()
    assert steps[-1].val_loss < steps[0].val_loss
    assert steps[0].outcome is None


def _with_weights(problem: engine.Problem, dense: Dense) -> engine.Problem:
    named = dense.ravel.tree(dense.w)
    with torch.no_grad():
        for name, parameter in problem.model.named_parameters():
            parameter.copy_(named[name])
    return problem


def _cosine(a: Tensors, b: Tensors) -> float:
    flat = [torch.cat([value.reshape(-1) for value in named.values()]) for named in (a, b)]
    return float(torch.nn.functional.cosine_similarity(*flat, dim=0))
