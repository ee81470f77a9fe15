"""Levels and priors: entries of a tensor follow the level that they share, unless the data say otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestor_engine as engine
from nestor.errors import ArgumentInvalid, OptionOutOfRange
from nestor_engine.hparams import L1, L2, ClassWeights, ExampleWeights, GroupWeights, Hyperparameters, compose
from nestor_engine.optim.levels import LevelAndDeviations
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.program import load
from tests.engine.cases import cross_entropy

N, PRECISION = 12, 0.3
OPTIMIZERS: dict[str, tuple[Optimizer, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "SGD": (engine.SGD(0.05, momentum=0.5), lambda p: torch.optim.SGD(p, 0.05, momentum=0.5)),
    "Adam": (engine.Adam(0.1), lambda p: torch.optim.Adam(p, 0.1)),
    "RMSprop": (engine.RMSprop(0.05), lambda p: torch.optim.RMSprop(p, 0.05)),
}


def problem(kinds: Callable[[nn.Module], Sequence[Hyperparameters]]) -> engine.Problem:
    torch.manual_seed(0)
    x = torch.randn(3 * N, 4)
    y = (x[:, 0] > 0).long()
    net = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2))
    return engine.Problem(
        net, kinds(net), cross_entropy, cross_entropy, train=(x[:N], y[:N]), val=(x[N:], y[N:])
    )  # fmt: skip


def trained(problem: engine.Problem, n_steps: int = 6, state: engine.State | None = None, **options: Any) -> list[Any]:
    config = engine.Config(n_steps=n_steps, inner=engine.SGD(0.1), outer=engine.Adam(0.1), **options)
    return list(engine.optimize(problem.bilevel(), problem.data, config, state))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_torchs_optimizer_on_the_level_and_the_deviations(name: str):
    ours, theirs = OPTIMIZERS[name]
    curvature = torch.tensor([1.0, 4.0, -2.0], dtype=torch.float64)
    x = start = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    moved, state = LevelAndDeviations(ours, start, PRECISION), ours.init(x)
    level, deviation = torch.zeros((), dtype=torch.float64, requires_grad=True), torch.zeros_like(x, requires_grad=True)
    optimizer = theirs([level, deviation])
    for k in range(20):
        gradient = 2 * curvature * (x - 1)  # of Σ c (x − 1)²
        x, state = moved.step(x, gradient, state, k)
        optimizer.zero_grad()
        loss = (curvature * (start + level + deviation - 1).square()).sum() + PRECISION * deviation.square().sum()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(x, (start + level + deviation).detach())
    torch.testing.assert_close(state["level"], level.detach())


def test_entries_without_a_gradient_of_their_own_go_with_the_level_from_where_they_start():
    x = start = torch.tensor([0.0, 0.0, 3.0])
    moved = LevelAndDeviations(engine.SGD(0.1), start, 0.05)
    state = moved.optimizer.init(x)
    for k in range(2_000):
        gradient = torch.stack([2 * (x[0] + 4), torch.zeros(()), torch.zeros(())])  # x₀ should be −4
        x, state = moved.step(x, gradient, state, k)
    assert x.tolist() == pytest.approx([-4.0, -4.0, -1.0], abs=0.05)


def test_the_prior_is_divided_by_the_examples_that_steer():
    kinds = lambda net: [L2(net, per="weight")]
    whole, folds = trained(problem(kinds), n_steps=4), trained(problem(kinds), n_steps=4, folds=engine.Folds(3))
    assert whole[-1].state.hparams["l2.0.weight"].std() > 0
    assert folds[-1].state.hparams["l2.0.weight"].std() > 0
    # With a strong prior everything follows the level, whatever the examples are.
    strong = trained(problem(lambda net: [L2(net, per="weight").with_prior(1e6)]), n_steps=30)
    spread = strong[-1].state.hparams["l2.0.weight"]
    assert spread.max() - spread.min() < 0.25  # Adam's step is 0.1 however small the gradient is
    assert abs(float(spread.mean()) + 6.0) > 0.3


def test_a_training_resumes_with_the_same_bits():
    steps = trained(problem(lambda net: [L2(net), ExampleWeights(N).with_prior(1e-3)]))
    state = engine.State.load(steps[2].state.save())
    again = trained(problem(lambda net: [L2(net), ExampleWeights(N).with_prior(1e-3)]), state=state)
    for name, value in steps[-1].state.hparams.items():
        assert torch.equal(value, again[-1].state.hparams[name]), name


def test_a_training_that_an_earlier_version_began_goes_on_without_a_level():
    flat = trained(problem(lambda net: [L2(net).with_prior(0)]))
    resumed = trained(problem(lambda net: [L2(net)]), state=engine.State.load(flat[2].state.save()))
    for name, value in flat[-1].state.hparams.items():
        assert torch.equal(value, resumed[-1].state.hparams[name]), name


def test_bounds_hold_for_the_sum():
    kinds = lambda net: [L2(net, init=-6.0).bounded(-6.05, -5.95)]
    for value in trained(problem(kinds))[-1].state.hparams.values():
        assert -6.0501 <= float(value.min()) <= float(value.max()) <= -5.9499


@pytest.mark.parametrize("kind", [L2, L1])
def test_decays_have_a_prior_in_each_tensor_with_several_entries(kind: type[L2 | L1]):
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 1))
    name = kind(net).default_name
    assert dict(kind(net, per="weight").priors) == {
        f"{name}.0.weight": 0.01, f"{name}.0.bias": 0.01, f"{name}.1.weight": 0.01
    }  # fmt: skip
    assert dict(kind(net, per="input").priors) == {f"{name}.0.weight": 0.01, f"{name}.1.weight": 0.01}
    assert not kind(net, per="global").priors
    assert not kind(net, per="weight").with_prior(0).priors
    assert kind(net, per="weight").priors  # with_prior returned a copy


def test_weights_of_examples_and_groups_have_priors():
    assert dict(ExampleWeights(50).priors) == {"example_weights": 0.01}
    assert dict(ClassWeights(3, init=[1.0, 2.0, 3.0]).priors) == {"class_weights": 0.3}
    assert dict(GroupWeights("source", 4, normalize="sigmoid").priors) == {"group_weights": 0.3}


def test_priors_keep_their_tensors_when_kinds_are_numbered():
    net = nn.Linear(4, 2)
    composed = compose([L2(net).with_prior(0), L2(net).with_prior(0.5), ExampleWeights(3).with_prior(0.1)])
    assert dict(composed.priors) == {"l2_2.weight": 0.5, "l2_2.bias": 0.5, "example_weights": 0.1}


def test_bounds_and_priors_of_several_kinds_reach_the_training():
    """They were lost where the kinds read the training data."""
    made = problem(lambda net: [L2(net), ExampleWeights(N)])
    made.hparams = made.hparams.with_prior(0.5).bounded(-7.0, 1.0)
    bilevel = made.bilevel()
    assert set(bilevel.priors.values()) == {0.5}
    assert bilevel.bounds == dict.fromkeys(bilevel.hparams, (-7.0, 1.0))


def test_programs_have_the_priors():
    posed = problem(lambda net: [L2(net, per="weight").with_prior(0.5), ExampleWeights(N)])
    program = posed.export()
    loaded = load(program.graphs, program.tensors)
    assert dict(loaded.priors) == dict(posed.bilevel().priors) != {}


@pytest.mark.parametrize("precision", [-1e-9, float("nan"), float("inf"), "1", None])
def test_other_precisions_are_refused(precision: Any):
    with pytest.raises((OptionOutOfRange, ArgumentInvalid), match=r"with_prior|precision"):
        L2(nn.Linear(2, 2)).with_prior(precision)
