"""On the device of NESTOR_TEST_DEVICE, the engine agrees with the CPU, resumes exactly, and frees memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

import nestor_engine as engine
from nestor.errors import is_out_of_memory
from nestor.options.responses import Response
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.autodiff.trace_cache import TraceCache
from nestor_engine.hparams import L2, ExampleWeights, compose
from nestor_engine.objective import Batch, Bilevel
from nestor_engine.responses import response
from nestor_engine.tensors.random import randomness
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training import inner_loop as inner
from tests.engine.cases import PROBLEMS, SEED, posed, whole
from tests.engine.device import DEVICE

PRODUCTS = [Linearization.hessian_product, Linearization.gauss_newton_product, Linearization.fisher_product]
RESPONSES = {
    "default": engine.Implicit(),
    "Hessian, CG": engine.Implicit(engine.Hessian(0.5), engine.ConjugateGradient(4)),
    "Fisher": engine.Implicit(engine.EmpiricalFisher(), engine.Neumann(2)),
    "sketched CG": engine.Implicit(
        engine.GaussNewton(), engine.WarmStarted(engine.PreconditionedCG(2, engine.NystromSketch(rank=4)))
    ),
    "KFAC": engine.Implicit(engine.KFAC(), engine.Direct()),
    "Richardson": engine.Implicit(engine.GaussNewton(), engine.WarmStarted(engine.Richardson())),
    "Nystrom": engine.Implicit(engine.GaussNewton(), engine.Nystrom(rank=4)),
    "unrolled": engine.Unrolled(2),
    "hypernetwork": engine.Hypernetwork(rank=3),
    "direct only": engine.DirectOnly(),
}
# On the CPU, other tests check every case; a few cases here show that these tests work.
if DEVICE.type == "cpu":
    RESPONSES = {name: RESPONSES[name] for name in ("default", "unrolled")}
TRACED = ["GELU MLP", "CNN, BatchNorm in training mode", "dropout", "LSTM"][: 1 if DEVICE.type == "cpu" else None]
DTYPES = {torch.float64: 1e-9, torch.float32: 2e-3}  # and how far a device may be from the CPU, relatively


def on(device: torch.device | str, name: str, dtype: torch.dtype) -> tuple[Bilevel, engine.Data]:
    """The case of that name, made on the CPU."""
    with torch.device("cpu"):
        bilevel, data = posed(name)
    to = lambda t: t.to(device, dtype) if t.is_floating_point() else t.to(device)
    columns = [{k: to(v) for k, v in split.items()} for split in (data.train, data.val)]
    bilevel = bilevel.to(device)
    named = lambda tree: tree_map(to, tree)
    return (
        Bilevel(**vars(bilevel) | {part: named(getattr(bilevel, part)) for part in ("params", "buffers", "hparams")}),
        engine.Data(*columns),
    )


def point(bilevel: Bilevel, data: engine.Data, traces: TraceCache | None = None) -> Linearization:
    ravel = Ravel(bilevel.params)
    w = ravel.vector(bilevel.params)
    with randomness(SEED, w.device):
        return Linearization(bilevel, ravel, w, bilevel.buffers, bilevel.hparams, whole(data.train), trace_cache=traces)


def close(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((got.cpu() - expected).norm() <= tolerance * expected.norm().clamp_min(1e-6))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", sorted({*PROBLEMS} - {"dropout"}))
def test_derivatives_are_those_of_the_cpu(name: str, dtype: torch.dtype):
    tolerance = DTYPES[dtype]
    here, there = point(*on("cpu", name, dtype)), point(*on(DEVICE, name, dtype))
    assert close(there.gradient, here.gradient, tolerance)
    v = torch.linspace(-1, 1, len(here.w), dtype=dtype, device="cpu")
    for product in PRODUCTS[:2]:
        assert close(product(there, v.to(DEVICE)), product(here, v), tolerance)
    for hparam, value in here.mixed(v).items():
        assert close(there.mixed(v.to(DEVICE))[hparam], value, tolerance)


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", TRACED)
def test_traced_products_are_those_of_autograd(name: str, product):
    bilevel, data = on(DEVICE, name, torch.float64)
    traces = TraceCache()
    for moved in (bilevel, bilevel):  # the second time from what was traced at the first
        traced, kept = point(moved, data, traces), point(moved, data)
        v = torch.linspace(-1, 1, len(kept.w), dtype=torch.float64, device=DEVICE)
        curved = traced.curved(product)
        first, second = curved(v), curved(2 * v)  # a product is the caller's: the next one does not overwrite it
        assert traced.traced, list(traces.news())
        torch.testing.assert_close(first, product(kept, v), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(second, 2 * first, rtol=1e-9, atol=1e-12)
        rows = torch.stack([v, -v, v])
        assert traced.curved_rows is not None
        torch.testing.assert_close(traced.curved_rows(rows), torch.stack([first, -first, first]), rtol=1e-9, atol=1e-12)
        for hparam, value in kept.mixed(v).items():
            torch.testing.assert_close(traced.mixed(v)[hparam], value, rtol=1e-9, atol=1e-12)


def config(response: Response, **parts) -> engine.Config:
    trained = {"inner": engine.Adam(1e-2), "inner_steps": 3, "batch_size": 7, "warmup_steps": 25}
    return engine.Config(**{"n_steps": 4, **trained, "response": response, "trace": True, **parts})


def problem(*layers: nn.Module, dtype: torch.dtype = torch.float64) -> engine.Problem:
    """Made on the CPU; its trials run where `tune` puts them."""
    with torch.device("cpu"):
        torch.manual_seed(0)
        x, y = torch.randn(24, 1, 4, 4, dtype=dtype), torch.arange(24) % 3
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.Flatten(), *layers, nn.Linear(12, 3)
        ).to(dtype)
        loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")
        kinds = [L2(model, per="weight", init=-2.0), ExampleWeights(18)]
        return engine.Problem(model, kinds, loss, loss, train=(x[6:], y[6:]), val=(x[:6], y[:6]), test=(x, y))


def tune(posed: engine.Problem, config: engine.Config, device=DEVICE, state: engine.State | None = None):
    return engine.optimize(posed.bilevel().to(device), posed.data.to(device), config, state)


# KFAC's random signals depend on the signs of eigenvectors, which are any device's own.
@pytest.mark.parametrize("name", [name for name in RESPONSES if name != "KFAC"])
def test_a_trajectory_is_that_of_the_cpu(name: str):
    here, there = (list(tune(problem(), config(RESPONSES[name]), device)) for device in (torch.device("cpu"), DEVICE))
    for ours, theirs in zip(there, here, strict=True):
        assert ours.val_loss == pytest.approx(theirs.val_loss, rel=1e-5)
    for hparam, value in here[-1].state.hparams.items():
        # Weights of examples are float32.
        torch.testing.assert_close(there[-1].state.hparams[hparam].cpu(), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RESPONSES)
def test_a_trial_continues_bit_for_bit(name: str):
    posed, settings = problem(nn.Dropout(0.2)), config(RESPONSES[name])
    *_, whole_run = tune(posed, settings)
    half = next(islice(tune(posed, settings), 1, None))
    state = engine.State.load(half.state.save())
    *_, resumed = tune(posed, settings, state=state)
    assert resumed.state.save() == whole_run.state.save()


def test_bfloat16_is_near_full_precision():
    briefly = lambda autocast: config(engine.Implicit(), autocast=autocast, n_steps=1, warmup_steps=0)
    # In float32, because autocast leaves float64 as it is.
    rounded, exact = (next(tune(problem(dtype=torch.float32), briefly(autocast))) for autocast in ("bfloat16", None))
    assert rounded.val_loss == pytest.approx(exact.val_loss, rel=0.02)
    assert rounded.val_loss != exact.val_loss
    assert rounded.hypergradient_norm == pytest.approx(exact.hypergradient_norm, rel=0.2)
    assert rounded.state.weights.dtype is torch.float32  # only operations are in bfloat16


def with_and_without_recordings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for steps in (2, 10**9):
        for part in (inner, response):
            monkeypatch.setattr(part, "STEPS_BEFORE_RECORDING", steps)
        yield


def test_what_is_recorded_is_what_is_launched_one_by_one(monkeypatch):
    ends = []
    for _ in with_and_without_recordings(monkeypatch):
        single = problem(nn.Dropout(0.2), dtype=torch.float32)
        *_, last = tune(single, config(engine.Implicit(), autocast="bfloat16"))
        ends.append(last.state.save())
    assert ends[0] == ends[1]


def test_folds_share_recordings_also_if_one_begins_after_a_resume(monkeypatch):
    ends = []
    for _ in with_and_without_recordings(monkeypatch):
        posed, settings = problem(), config(engine.Implicit(), folds=engine.Folds(2), n_steps=5)
        posed.hparams = compose(L2(posed.model, init=-2.0))  # weights of examples need a fixed training split
        first = next(tune(posed, settings))
        *_, last = tune(posed, settings, state=engine.State.load(first.state.save()))
        ends.append(last.state.save())
    assert ends[0] == ends[1]


def test_a_loss_that_waits_for_the_device_is_trained_one_by_one():
    posed = problem()

    def waits(outputs: Tensor, batch: Batch) -> Tensor:
        return outputs.square().sum(1) * (1.0 if float(outputs.detach().sum()) > 1e9 else 0.5)

    posed.train_loss = waits
    steps = list(tune(posed, config(engine.Implicit(), trace=False, outer=engine.Adam(1e-3))))
    assert steps[-1].train_loss < steps[0].train_loss


def test_memory_is_free_after_a_trial():
    def alive() -> int:
        gc.collect()
        return sum(t.numel() for t in gc.get_objects() if type(t) is Tensor and t.device.type == DEVICE.type)

    def trial() -> None:
        for _ in tune(problem(), config(engine.Implicit())):
            pass

    trial()  # what is loaded once
    before, held = alive(), torch.cuda.memory_allocated() if DEVICE.type == "cuda" else 0
    trial()
    assert alive() <= before
    assert (torch.cuda.memory_allocated() if DEVICE.type == "cuda" else 0) <= held


def test_too_little_memory_is_distinguished_from_other_errors():
    posed = problem()
    posed.train_loss = lambda outputs, batch: outputs.new_ones(2**46).sum() + outputs.sum()
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        next(tune(posed, config(engine.Implicit())))
    assert is_out_of_memory(raised.value)
    assert list(tune(problem(), config(engine.Implicit())))  # the device is usable afterwards
