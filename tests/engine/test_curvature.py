"""Curvature products are those of the dense matrices, for every kind of network."""

from __future__ import annotations

import pytest
import torch

import nestor_engine as engine
from nestor_engine.curvature import Operator
from tests.engine.cases import CASES, Dense, posed

pytestmark = pytest.mark.parametrize("name", CASES)


@pytest.fixture
def dense(name: str) -> Dense:
    return Dense(*posed(name))


def _matrix(product, n: int) -> torch.Tensor:
    return torch.stack([product(row) for row in torch.eye(n, dtype=torch.float64)])


def test_hessian_products_are_those_of_the_dense_hessian(dense: Dense):
    torch.testing.assert_close(_matrix(dense.point().hessian_product, len(dense.w)), dense.hessian())


def test_gauss_newton_products_are_those_of_the_dense_matrix(dense: Dense):
    torch.testing.assert_close(_matrix(dense.point().gauss_newton_product, len(dense.w)), dense.gauss_newton())


@pytest.mark.parametrize("per", ["batch", "example"])
def test_fisher_products_are_those_of_explicit_gradients(dense: Dense, per: str):
    operator = engine.EmpiricalFisher(0.0, per=per).at(dense.point(), {})
    torch.testing.assert_close(_matrix(operator, len(dense.w)), dense.fisher(per))


def test_gauss_newton_is_positive_semidefinite_where_the_hessian_is_not(dense: Dense):
    eigenvalues = torch.linalg.eigvalsh(_matrix(dense.point().gauss_newton_product, len(dense.w)))
    assert eigenvalues.min() > -1e-9 * eigenvalues.max()


@pytest.mark.parametrize("curvature", [engine.Hessian(), engine.GaussNewton(0.0)], ids=lambda c: type(c).__name__)
def test_products_are_linear_and_symmetric(dense: Dense, curvature):
    operator = curvature.at(dense.point(), {})
    u, v = torch.randn(2, len(dense.w), dtype=torch.float64)
    torch.testing.assert_close(operator(2 * u - v), 2 * operator(u) - operator(v))
    torch.testing.assert_close(u @ operator(v), v @ operator(u))


def test_damping_is_relative_to_the_norm_of_the_operator(dense: Dense):
    matrix, memory = dense.gauss_newton(), {}
    for _ in range(300):  # each outer step refreshes the estimate by one product
        operator = Operator(matrix.mv, damping=0.5, memory=memory)
        operator.norm(dense.w)
    norm = torch.linalg.eigvalsh(matrix).abs().max()
    assert operator.norm(dense.w) == pytest.approx(1.5 * norm.item(), rel=1e-3)
    v = torch.randn_like(dense.w)
    torch.testing.assert_close(operator(v), matrix @ v + 0.5 * norm * v, rtol=1e-3, atol=1e-6)
