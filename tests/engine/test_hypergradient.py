"""The hypergradient is dF/dλ: compared with dense solves, closed forms, and retraining."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import nestor_engine as engine
from nestor_engine.curvature import Curvature
from nestor_engine.objective import Tensors
from nestor_engine.responses import OuterStepContext, Response
from nestor_engine.tensors.random import randomness
from tests.engine.cases import CASES, SEED, Dense, dense, matrix, posed, ridge, ridge_minimizer
from tests.engine.device import DEVICE

F64 = torch.float64


def _context(case: Dense) -> OuterStepContext:
    return OuterStepContext.at(case.bilevel, case.w, case.train, case.val)


def _hypergradient(case: Dense, response: Response) -> Tensors:
    with randomness(SEED, DEVICE):
        return response.hypergradient_at(_context(case)).gradient


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("terms", [0, 3])
@pytest.mark.parametrize("curvature", [engine.Hessian(), engine.GaussNewton(0.0)], ids=repr)
def test_every_case_agrees_with_the_dense_partial_sum(name: str, curvature: Curvature, terms: int):
    inverted, alpha = matrix(name, curvature), 0.05
    eye = torch.eye(len(inverted), dtype=F64)
    partial = alpha * sum((torch.linalg.matrix_power(eye - alpha * inverted, j) for j in range(terms + 1)), 0 * eye)
    expected = dense(name).hypergradient(partial)

    got = _hypergradient(dense(name), engine.Implicit(curvature, engine.Neumann(terms, alpha=alpha)))

    for hparam in expected:
        torch.testing.assert_close(got[hparam], expected[hparam])


def test_a_long_series_reaches_the_exact_implicit_hypergradient():
    case = Dense(*posed("softmax regression"))
    expected = case.hypergradient(torch.linalg.inv(case.hessian()))

    got = _hypergradient(case, engine.Implicit(engine.Hessian(), engine.Neumann(2_000)))

    for hparam in expected:
        torch.testing.assert_close(got[hparam], expected[hparam])


@pytest.mark.parametrize("curvature", [engine.Hessian(), engine.GaussNewton(0.0)], ids=lambda c: type(c).__name__)
def test_ridge_regression_has_the_closed_form_hypergradient(curvature):
    bilevel, data = ridge()
    decay = bilevel.hparams["decay"].clone().requires_grad_()
    w = ridge_minimizer(data, decay)
    (0.5 * (data.val["x"] @ w - data.val["y"]).square().mean()).backward()  # through the closed form

    batches = [{**split, "index": torch.arange(len(split["x"]))} for split in (data.train, data.val)]
    context = OuterStepContext.at(bilevel, w.detach(), *batches)
    got = engine.Implicit(curvature, engine.Neumann(500)).hypergradient_at(context)

    torch.testing.assert_close(got.gradient["decay"], decay.grad)
    assert got.inner_gradient_norm < 1e-12
    assert got.solution.residual < 1e-8


def test_the_hypergradient_is_the_slope_of_the_objective_after_training_again():
    """Softmax regression with example weights, trained to its minimum by Newton's method for every shifted λ."""
    case = Dense(*posed("softmax regression"))
    case.w = case.minimizer(case.bilevel.hparams)

    got = _hypergradient(case, engine.Implicit(engine.Hessian(), engine.Neumann(2_000)))

    for hparam, index in (("l2", 0), ("l2", 1), ("example_weights", 0), ("example_weights", 5)):
        direction = {name: torch.zeros_like(value) for name, value in got.items()}
        direction[hparam][index] = 1.0
        slope = case.retrained_slope(direction)
        assert got[hparam][index].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_a_validation_loss_that_reads_the_hyperparameter_contributes_its_direct_gradient():
    bilevel, data = ridge()
    decay = bilevel.hparams["decay"]
    plain = bilevel.val_loss
    direct = replace(bilevel, val_loss=lambda out, h, batch: plain(out, h, batch) + (h["decay"] ** 2).sum())
    batches = [{**split, "index": torch.arange(len(split["x"]))} for split in (data.train, data.val)]
    w = ridge_minimizer(data, decay)
    args = (w, *batches)
    response = engine.Implicit(engine.Hessian(), engine.Neumann(50))

    difference = (
        response.hypergradient_at(OuterStepContext.at(direct, *args)).gradient["decay"]
        - response.hypergradient_at(OuterStepContext.at(bilevel, *args)).gradient["decay"]
    )

    torch.testing.assert_close(difference, 2 * decay)


@pytest.mark.parametrize(
    "response",
    [engine.Implicit(engine.Hessian(), engine.WarmStarted(engine.Neumann(5))), engine.Hypernetwork(rank=4)],
    ids=lambda response: type(response).__name__,
)
def test_ridge_decays_are_tuned_to_the_minimum_of_the_validation_loss(response: Response):
    bilevel, data = ridge()
    config = engine.Config(
        n_steps=150,
        inner=engine.SGD(0.5),
        inner_steps=5,
        outer=engine.Adam(0.1),
        response=response,
    )
    *_, last = engine.optimize(bilevel, data, config)

    def validation(decay: Tensor) -> Tensor:
        w = ridge_minimizer(data, decay)
        return 0.5 * (data.val["x"] @ w - data.val["y"]).square().mean()

    decay = bilevel.hparams["decay"].clone().requires_grad_()
    solver = torch.optim.LBFGS([decay], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = validation(decay)
        loss.backward()
        return loss

    solver.step(closure)
    start, least = validation(bilevel.hparams["decay"]).item(), validation(decay.detach()).item()
    assert last.val_loss - least < 0.02 * (start - least)
