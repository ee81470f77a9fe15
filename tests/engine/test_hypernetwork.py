"""A trained response is exact where the implicit function theorem is, resumes, and reports its residual."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import nestor_engine as engine
from nestor_engine.objective import Tensors
from nestor_engine.responses import Hypergradient, OuterStepContext
from nestor_engine.responses.hypernetwork import HypernetworkState
from nestor_engine.solvers import Outcome
from nestor_engine.training.inner_loop import InnerLoop
from tests.engine.cases import Dense, build, posed, quadratic, ridge


def _trained(dense: Dense, response: engine.Hypernetwork, outer_steps: int) -> tuple[Hypergradient, HypernetworkState]:
    """The hypergradient after some outer steps at weights and hyperparameters that stay where they are."""
    loop = InnerLoop(dense.bilevel, dense.ravel, dense.train, engine.SGD(0.1), seed=3, batch_size=10_000)
    context = OuterStepContext.at(dense.bilevel, dense.w, dense.train, dense.val, inner_loop=loop)
    state = response.init()
    for _ in range(outer_steps - 1):
        _, state = response.hypergradient(context, state)
    return response.hypergradient(context, state)


def _flat(named: Tensors) -> Tensor:
    return torch.cat([value.reshape(-1) for value in named.values()])


def _distance(got: Tensors, expected: Tensor) -> float:
    return float((_flat(got) - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def minimum() -> Dense:
    dense = Dense(*posed("softmax regression"))
    dense.w = dense.minimizer(dense.bilevel.hparams)
    return dense


def test_at_a_minimum_it_learns_the_exact_implicit_hypergradient(minimum: Dense):
    got, _ = _trained(minimum, engine.Hypernetwork(rank=16, scale=1e-3, steps=100, damping=0.0), 5)
    exact = _flat(minimum.hypergradient(torch.linalg.inv(minimum.hessian())))
    assert _distance(got.gradient, exact) < 1e-3
    assert got.inner_gradient_norm is not None
    assert got.inner_gradient_norm < 1e-12
    assert got.solution is not None
    assert got.solution.residual < 1e-3


@pytest.mark.cpu
def test_damping_is_that_of_the_implicit_response(minimum: Dense):
    got, _ = _trained(minimum, engine.Hypernetwork(rank=16, scale=1e-3, steps=40, damping=0.5), 40)
    hessian = minimum.hessian()
    damped = hessian + 0.5 * torch.linalg.matrix_norm(hessian, 2) * torch.eye(len(hessian))
    exact = _flat(minimum.hypergradient(torch.linalg.inv(damped)))
    assert _distance(got.gradient, exact) < 1e-3


def test_of_many_hyperparameters_it_sees_the_projection_onto_its_directions(minimum: Dense):
    got, state = _trained(minimum, engine.Hypernetwork(rank=4, scale=1e-3, steps=100, damping=0.0), 1)
    directions = state.directions  # (m, 4)
    assert directions is not None
    torch.testing.assert_close(directions.T @ directions, torch.eye(4, dtype=torch.float64))
    exact = _flat(minimum.hypergradient(torch.linalg.inv(minimum.hessian())))
    projected = directions @ directions.T @ exact
    assert _distance(got.gradient, projected) < 1e-3


def test_away_from_a_minimum_the_antithetic_pair_cancels_the_gradient():
    """At random weights ∂f/∂w is large; the response is that of the Hessian there all the same."""
    dense = Dense(*posed("softmax regression"))
    got, _ = _trained(dense, engine.Hypernetwork(rank=16, scale=1e-3, steps=100, damping=0.0), 5)
    exact = _flat(dense.hypergradient(torch.linalg.inv(dense.hessian())))
    assert _distance(got.gradient, exact) < 1e-3
    assert got.inner_gradient_norm is not None
    assert got.inner_gradient_norm > 0.1


def test_dropout_draws_the_same_mask_on_both_sides_of_a_difference():
    """With two masks the difference is their noise divided by the scale, thousands of times the curvature."""
    dense = Dense(*posed("dropout"))
    _, state = _trained(dense, engine.Hypernetwork(rank=20, scale=1e-5), 10)
    assert state.response is not None
    assert state.response.norm() < 100


@pytest.mark.parametrize("name", ["dropout", "CNN, BatchNorm in training mode"])
def test_a_trajectory_resumes_bitwise(name: str):
    problem = build(name)
    config = engine.Config(
        n_steps=6, inner=engine.Adam(0.01), inner_steps=2, batch_size=5, response=engine.Hypernetwork(rank=3)
    )
    steps = list(engine.optimize(problem.bilevel(), problem.data, config))
    half = engine.State.load(steps[2].state.save())
    *_, resumed = engine.optimize(problem.bilevel(), problem.data, config, half)
    assert resumed.state.save() == steps[-1].state.save()
    assert steps[-1].products == 5 + 2  # the norm's estimate is that of the step before
    residual = steps[-1].residual
    assert residual is not None
    assert 0 < residual <= 1


class _FirstOnly(torch.autograd.Function):
    """tanh, with a derivative that has none itself, as in many a fused kernel."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return slope * (1 - y * y)


def test_a_module_without_second_derivatives_is_served():
    bilevel, data = ridge()
    plain = bilevel.forward
    once = replace(bilevel, forward=lambda p, b, h, batch: (_FirstOnly.apply(plain(p, b, h, batch)[0]), b))
    config = engine.Config(n_steps=5, inner=engine.SGD(0.1), response=engine.Hypernetwork(rank=4))
    *_, last = engine.optimize(once, data, config)
    assert last.hypergradient_norm > 0
    with pytest.raises(RuntimeError, match=r"does not require grad|not have been used"):
        list(engine.optimize(once, data, config.model_copy(update={"response": engine.Implicit()})))


def test_at_a_saddle_the_response_does_not_grow_without_bound():
    dense = Dense(*quadratic([[1.0, 0.0], [0.0, -0.5]]))
    got, state = _trained(dense, engine.Hypernetwork(rank=2, steps=20), 40)
    assert got.solution is not None
    assert got.solution.residual <= 1
    assert state.response is not None
    assert state.response.norm() < 10


def test_a_non_finite_response_is_reported_and_dropped():
    dense = Dense(*quadratic([[float("nan")]]))
    got, state = _trained(dense, engine.Hypernetwork(rank=2), 1)
    assert got.solution is not None
    assert got.solution.outcome is Outcome.nonfinite
    assert state.response is not None
    assert not state.response.any()


@pytest.mark.parametrize("option", [{"rank": 0}, {"steps": 0}, {"scale": 0.0}, {"lr": 2.0}, {"damping": -1.0}])
def test_options_that_cannot_work_are_refused(option: dict[str, float]):
    with pytest.raises(engine.errors.ConfigInvalid, match=rf"Hypernetwork\({next(iter(option))}=.*: it must be"):
        engine.Hypernetwork(**option)
