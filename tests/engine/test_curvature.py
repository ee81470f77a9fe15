"""Curvature products are those of the dense matrices, for every kind of network."""

from __future__ import annotations

import pytest
import torch

import nestor_engine as engine
from nestor_engine.curvature import Curvature, NormState, Operator
from nestor_engine.solvers import Outcome
from tests.engine.cases import CASES, dense, matrix

pytestmark = pytest.mark.parametrize("name", CASES)
KINDS = [
    engine.Hessian(0.0),
    engine.GaussNewton(0.0),
    engine.EmpiricalFisher(0.0),
    engine.EmpiricalFisher(0.0, per="example"),
]


@pytest.mark.parametrize("curvature", KINDS, ids=repr)
def test_products_are_those_of_the_dense_matrix(name: str, curvature: Curvature):
    operator = curvature.operator(dense(name).linearization())
    expected = matrix(name, curvature)
    torch.testing.assert_close(operator(torch.eye(len(expected), dtype=torch.float64)), expected)


@pytest.mark.parametrize("curvature", KINDS, ids=repr)
def test_products_are_linear_and_symmetric(name: str, curvature: Curvature):
    operator = curvature.operator(dense(name).linearization())
    u, v = torch.randn(2, len(dense(name).w), dtype=torch.float64)
    torch.testing.assert_close(operator(2 * u - v), 2 * operator(u) - operator(v))
    torch.testing.assert_close(u @ operator(v), v @ operator(u))


def test_gauss_newton_is_positive_semidefinite_where_the_hessian_is_not(name: str):
    eigenvalues = torch.linalg.eigvalsh(matrix(name, engine.GaussNewton(0.0)))
    assert eigenvalues.min() > -1e-9 * eigenvalues.max()


def test_damping_is_relative_to_the_norm_of_the_operator(name: str):
    curvature, state = matrix(name, engine.GaussNewton(0.0)), NormState()
    for _ in range(300):  # each outer step refreshes the estimate by one product
        operator = Operator(curvature.mv, damping=0.5, norm_state=state)
        operator.norm(dense(name).w)
        state = operator.norm_state
    norm = torch.linalg.eigvalsh(curvature).abs().max()
    assert operator.norm(dense(name).w) == pytest.approx(1.5 * norm.item(), rel=1e-3)
    v = torch.randn_like(dense(name).w)
    torch.testing.assert_close(operator(v), curvature @ v + 0.5 * norm * v, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_the_fisher_matrix_of_a_batch_knows_its_norm_and_its_inverse(name: str, damping: float):
    """An estimate of the norm from the last batch's gradient may be far too low, and the series then diverges."""
    operator = engine.EmpiricalFisher(damping).operator(dense(name).linearization())
    fisher, b = matrix(name, engine.EmpiricalFisher(0.0)), torch.randn(len(dense(name).w), dtype=torch.float64)
    norm = torch.linalg.eigvalsh(fisher).max().item()
    assert operator.norm(b) == pytest.approx(norm * (1 + damping))
    solution = engine.Direct().solution(operator, b)
    if damping:
        damped = fisher + damping * norm * torch.eye(len(b), dtype=torch.float64)
        torch.testing.assert_close(solution.x, torch.linalg.solve(damped, b))
        assert solution.outcome is Outcome.converged
        assert operator.products <= 2  # no matrix is built
    else:
        assert solution.outcome is Outcome.singular
