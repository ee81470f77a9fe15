"""Properties of every input, on inputs that hypothesis draws."""

from __future__ import annotations

import functools
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import nestor_engine as engine
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature import Curvature, Operator
from nestor_engine.objective import Tensors
from nestor_engine.responses import OuterStepContext
from nestor_engine.solvers import Outcome, Solver
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training import evaluation
from nestor_engine.training.inner_loop import InnerLoop
from nestor_engine.training.state import FoldState
from tests.engine.cases import Dense, build, dense, ridge, ridge_minimizer
from tests.engine.device import DEVICE

F64 = torch.float64
KINDS = [engine.Hessian(0.3), engine.GaussNewton(), engine.EmpiricalFisher(), engine.EmpiricalFisher(per="example")]
SOLVERS = [
    engine.Identity(),
    engine.Neumann(3),
    engine.Neumann(3, alpha=0.2),
    engine.ConjugateGradient(4, damping=0.0),
    engine.PreconditionedCG(3, engine.NystromSketch(rank=3), damping=0.0),
    engine.Direct(),
    engine.Nystrom(rank=3),
]
seeds = st.integers(0, 2**32)
factors = st.floats(-100, 100)


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator(DEVICE).manual_seed(seed))


@functools.cache
def _operator(name: str, curvature: Curvature) -> Operator:
    return curvature.operator(dense(name).linearization())


@pytest.mark.parametrize("curvature", KINDS, ids=repr)
@given(name=st.sampled_from(["GELU MLP", "ridge regression", "embedding"]), seed=seeds, a=factors, b=factors)
@settings(max_examples=20)
def test_damped_products_are_linear_and_symmetric(curvature: Curvature, name: str, seed: int, a: float, b: float):
    operator = _operator(name, curvature)
    u, v = _draw(2, len(dense(name).w), seed=seed)
    torch.testing.assert_close(operator(a * u + b * v), a * operator(u) + b * operator(v), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(u @ operator(v), v @ operator(u), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@given(seed=seeds, n=st.integers(1, 8), exponent=st.floats(-4, 4), negative=st.booleans())
@settings(max_examples=15)
def test_the_residual_is_the_residual(solver: Solver, warm: bool, seed: int, n: int, exponent: float, negative: bool):
    """On systems of any scale and conditioning, definite or not; the system changes before a warm start."""
    basis = torch.linalg.qr(_draw(n, n, seed=seed)).Q
    values = 10**exponent * torch.logspace(-3, 0, n, dtype=F64)
    values[0] *= -1 if negative else 1
    matrix = basis @ torch.diag(values) @ basis.T
    matrix = (matrix + matrix.T) / 2
    chosen = engine.WarmStarted(solver) if warm else solver
    state = chosen.init()
    for outer_step in range(3):
        b = _draw(n, seed=seed) + 0.3 * _draw(n, seed=seed + outer_step)
        solution, state = chosen.solve(Operator(matrix.mv), b, state)
        true = ((b - matrix @ solution.x).norm() / b.norm()).item()
        assert solution.residual == pytest.approx(true, rel=1e-6, abs=1e-9)
        assert torch.isfinite(solution.x).all()
        assert solution.outcome is not Outcome.converged or true < 1e-5


# --- what is written is what is read --------------------------------------------------------------

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,20}", fullmatch=True)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES, length: int | None = None) -> Tensor:
    """Of any dtype, shape and memory layout, and of any bits: NaN, −0 and subnormal numbers included."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.lists(st.integers(0 if length is None else 1, 4), max_size=3))
    shape = shape if length is None else [length, *shape]
    size = torch.empty(shape, dtype=dtype).nbytes
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype is torch.bool:
        raw = bytearray(byte & 1 for byte in raw)
    made = torch.frombuffer(raw, dtype=dtype).reshape(shape) if raw else torch.empty(shape, dtype=dtype)
    return made.transpose(0, -1).contiguous().transpose(0, -1) if made.ndim > 1 and draw(st.booleans()) else made


def _bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    # Copied first: a tensor of one dimension and one entry has strides of its own, which no view as bytes takes.
    flat = tensor.cpu().contiguous().clone().reshape(-1)
    return tensor.dtype, tensor.shape, flat.view(torch.uint8).numpy().tobytes()


def _all_bits(named: Tensors) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {name: _bits(value) for name, value in named.items()}


groups = st.dictionaries(names, tensors(), max_size=3)
undotted = st.dictionaries(names.filter(lambda name: "." not in name), tensors(), max_size=3)


@given(
    weights=tensors([torch.float32, F64]), buffers=groups, hparams=groups, inner=groups, response=groups,
    named=undotted, counters=st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 2**40)),
    warned=st.lists(st.text(st.characters(codec="utf-8")), max_size=3),
)  # fmt: skip
@settings(max_examples=50)
def test_a_saved_state_comes_back_bit_for_bit(weights, buffers, hparams, inner, response, named, counters, warned):
    seed, step, inner_steps = counters
    outer = {name: dict(named) for name in hparams}
    fold = FoldState(weights, buffers, inner, response, inner_steps)
    state = engine.State((fold,), hparams, outer, seed=seed, step=step, previous=hparams, warned=warned)

    back = engine.State.load(state.save())

    assert _bits(back.weights) == _bits(weights)
    for group in ("buffers", "optimizer_state", "response"):
        assert _all_bits(getattr(back.active_fold, group)) == _all_bits(getattr(fold, group))
    for group in ("hparams", "previous"):
        assert _all_bits(getattr(back, group)) == _all_bits(getattr(state, group))
    kept = {name: _all_bits(of) for name, of in back.outer_optimizer_state.items()}
    assert kept == {name: _all_bits(of) for name, of in outer.items()}
    assert (back.seed, back.step, back.active_fold.inner_steps, back.warned) == (seed, step, inner_steps, warned)
    assert back.save() == state.save()


def test_hyperparameters_and_buffers_come_back_in_the_order_they_had():
    """The order of tensors in a file differs between processes. Sums over tensors and traces depend on it."""
    bilevel = build("GELU MLP").bilevel()
    some = dict.fromkeys("zyxwvutsrqponm", torch.zeros(2))
    state = engine.State.initial(
        replace(bilevel.untransformed(), hparams=some, buffers=some, initial=lambda params, hparams: params),
        engine.SGD(),
        engine.SGD(),
    )
    back = engine.State.load(state.save())
    assert list(back.hparams) == list(state.hparams)
    assert list(back.buffers) == list(state.buffers)


@st.composite
def splits(draw: st.DrawFn) -> Tensors:
    length = draw(st.integers(1, 4))
    columns = st.dictionaries(
        names.filter(lambda name: name != "index"), tensors(length=length), min_size=1, max_size=3
    )
    return draw(columns)


@given(train=splits(), val=splits(), test=st.none() | splits())
@settings(max_examples=50)
def test_saved_data_come_back_bit_for_bit(train: Tensors, val: Tensors, test: Tensors | None):
    data = engine.Data.of(train=train, val=val, test=test)
    back = engine.Data.load(data.save())
    assert {s: _all_bits(c) for s, c in back.splits.items()} == {s: _all_bits(c) for s, c in data.splits.items()}


# --- what an order or a cut may not change --------------------------------------------------------


@given(size=st.integers(1, 25), name=st.sampled_from(["GELU MLP", "dropout", "CNN, BatchNorm in training mode"]))
@settings(max_examples=20)
def test_an_evaluation_in_pieces_is_that_of_the_whole(size: int, name: str):
    problem = build(name)
    problem.metrics["right"] = lambda outputs, batch: (outputs.argmax(1) == batch["y"]).float()
    b, train = problem.bilevel(), problem.data.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "EVALUATION_BATCH", size)
        pieces = engine.evaluate(b, b.params, b.buffers, b.hparams, train)
    at_once = engine.evaluate(b, b.params, b.buffers, b.hparams, train)
    assert pieces == pytest.approx(at_once, rel=1e-6)


@pytest.mark.parametrize("curvature", [engine.Hessian(), engine.GaussNewton(0.0)], ids=repr)
@given(cuts=st.sets(st.integers(1, 7)), name=st.sampled_from(["GELU MLP", "embedding"]), seed=seeds)
@settings(max_examples=10)
def test_a_product_over_a_batch_is_the_mean_of_those_over_its_pieces(
    curvature: Curvature, cuts: set[int], name: str, seed: int
):
    case = dense(name)
    v, n = _draw(len(case.w), seed=seed), len(case.train["index"])

    def product(rows: slice) -> Tensor:
        batch = {column: values[rows] for column, values in case.train.items()}
        b = case.bilevel
        return curvature.operator(Linearization(b, case.ravel, case.w, b.buffers, b.hparams, batch))(v)

    edges = [0, *sorted(cuts), n]
    pieces = [(b - a) / n * product(slice(a, b)) for a, b in pairwise(edges)]
    torch.testing.assert_close(sum(pieces[1:], start=pieces[0]), product(slice(None)))


@given(seed=seeds, name=st.sampled_from(["GELU MLP", "CNN, BatchNorm in training mode", "ridge regression"]))
@settings(max_examples=15)
def test_the_hypergradient_does_not_depend_on_the_order_of_a_batch(seed: int, name: str):
    case = dense(name)
    response = engine.Implicit(engine.GaussNewton(), engine.Neumann(3))
    generator = torch.Generator(DEVICE).manual_seed(seed)

    def hypergradient(*, shuffled: bool) -> Tensors:
        batches = []
        for batch in (case.train, case.val):
            order = torch.randperm(len(batch["index"]), generator=generator) if shuffled else batch["index"]
            batches.append({column: values[order] for column, values in batch.items()})
        return response.hypergradient_at(OuterStepContext.at(case.bilevel, case.w, *batches)).gradient

    straight, shuffled = hypergradient(shuffled=False), hypergradient(shuffled=True)
    for hparam in straight:
        torch.testing.assert_close(shuffled[hparam], straight[hparam])


# --- the slides' theorem --------------------------------------------------------------------------


@given(terms=st.integers(0, 12), alpha=st.floats(0.01, 0.5))
@settings(max_examples=25)
def test_the_series_of_i_terms_is_i_plus_one_steps_of_sgd_from_the_minimum(terms: int, alpha: float):
    bilevel, data = ridge()
    case = Dense(bilevel, data)
    case.w = ridge_minimizer(data, bilevel.hparams["decay"])
    sgd = engine.SGD(alpha)
    training = InnerLoop(bilevel, Ravel(bilevel.params), data.train, sgd, seed=0, batch_size=len(data.train["x"]))
    start = FoldState(case.w, {}, sgd.init(case.w))
    ended, _, kept = training.run(start, bilevel.hparams, terms + 1, keep=terms + 1)
    context = OuterStepContext.at(bilevel, ended.weights, case.train, case.val, inner_loop=training, inner_steps=kept)

    unrolled = engine.Unrolled(terms + 1).hypergradient_at(context).gradient["decay"]
    series = engine.Implicit(engine.Hessian(), engine.Neumann(terms, alpha=alpha)).hypergradient_at(context)

    torch.testing.assert_close(unrolled, series.gradient["decay"], rtol=1e-9, atol=1e-12)
