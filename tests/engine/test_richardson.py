"""Richardson's iteration: its formula, fresh matrices in each step, and its limit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import nestor_engine as engine
from nestor_engine.curvature import Operator
from nestor_engine.solvers import Outcome
from tests.engine.device import DEVICE

F64 = torch.float64
N = 6
WHOLE = engine.NystromSketch(rank=N, refresh=1_000)  # of all directions: an exact inverse, taken once


def matrices(count: int, spread: float) -> tuple[Tensor, Tensor]:
    """Symmetric positive definite matrices, shape (count, N, N), as those of batches are, and a right-hand side."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    samples = torch.randn(count, 4 * N, N, dtype=F64, generator=generator)
    batches = samples.mT @ samples / (4 * N)
    batches = batches.mean(0) + spread * (batches - batches.mean(0))
    return batches, torch.randn(N, dtype=F64, generator=generator)


def test_the_first_step_is_the_preconditioner_alone():
    (matrix,), b = matrices(1, 1.0)
    solution = engine.WarmStarted(engine.Richardson(rate=0.2, preconditioner=WHOLE)).solution(Operator(matrix.mv), b)
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, b))


def test_each_step_goes_a_part_of_the_steepest_descent_s():
    batches, b = matrices(6, 0.5)
    solver = engine.WarmStarted(engine.Richardson(steps=2, rate=0.3, preconditioner=WHOLE))
    state = solver.init()
    x, inverse, rates = torch.zeros_like(b), torch.linalg.inv(batches[0]), iter((1, 1 / 2, 1 / 3, *[0.3] * 9))
    for k, matrix in enumerate(batches):
        for _ in range(2 if k else 1):  # the first step of the first batch solves it, where its inverse is known
            z = inverse @ (b - matrix @ x)
            x = x + next(rates) * (z @ (b - matrix @ x)) / (z @ matrix @ z) * z
        solution, state = solver.solve(Operator(matrix.mv), b, state)
        torch.testing.assert_close(solution.x, x)
        assert solution.residual == pytest.approx(((b - matrix @ x).norm() / b.norm()).item(), abs=1e-9)
        assert solution.outcome is Outcome.truncated
        if k == 0:
            next(rates)


def test_a_poor_preconditioner_makes_it_slow_and_not_unstable():
    (matrix,), b = matrices(1, 1.0)
    solver = engine.Richardson(steps=1, rate=1.0, preconditioner=engine.NystromSketch(rank=1, refresh=1_000))
    state, x, residuals = solver.init(), None, []
    for _ in range(30):
        solution, state = solver.solve(Operator((matrix + 100 * torch.outer(b, b)).mv), b, state, x)
        x, energy = solution.x, solution.x @ (matrix + 100 * torch.outer(b, b)) @ solution.x / 2 - b @ solution.x
        residuals.append(energy.item())
    assert residuals == sorted(residuals, reverse=True)


def test_it_stops_at_negative_curvature_and_says_so():
    solution = engine.Richardson().solution(Operator((-torch.eye(N, dtype=F64)).mv), torch.ones(N, dtype=F64))
    assert solution.outcome is Outcome.indefinite
    assert not solution.x.any()


def test_on_one_matrix_it_ends_at_the_dense_solution():
    (matrix,), b = matrices(1, 1.0)
    solver = engine.Richardson(steps=400, rate=0.5, preconditioner=engine.NystromSketch(rank=3))
    norm = torch.linalg.matrix_norm(matrix, 2).item()
    solution = solver.solution(Operator(matrix.mv, damping=0.1, norm=norm), b)
    damped = matrix + 0.1 * norm * torch.eye(N, dtype=F64)
    torch.testing.assert_close(solution.x, torch.linalg.solve(damped, b))
    assert solution.residual < 1e-9


@pytest.mark.cpu
def test_on_fresh_batches_its_mean_is_nearer_to_the_solution_of_all_data_than_that_of_their_solutions():
    batches, b = matrices(1_000, 1.0)
    exact = torch.linalg.solve(batches.mean(0), b)
    off = lambda x: ((x - exact).norm() / exact.norm()).item()
    solver, seen = engine.WarmStarted(engine.Richardson(rate=0.05, preconditioner=WHOLE)), []
    state = solver.init()
    for matrix in batches:
        solution, state = solver.solve(Operator(matrix.mv), b, state)
        seen.append(solution.x)
    apart = off(torch.linalg.solve(batches, b.expand(len(batches), N)).mean(0))
    assert off(torch.stack(seen[100:]).mean(0)) < 0.1
    assert apart > 0.2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_result_is_never_a_success(bad: float):
    (matrix,), b = matrices(1, 1.0)
    assert engine.Richardson().solution(Operator(matrix.mv), b * bad).outcome is Outcome.nonfinite
    solution = engine.Richardson(steps=2).solution(Operator((matrix * bad).mv), b)
    assert solution.outcome is Outcome.nonfinite
    assert solution.x.isfinite().all()


def test_a_zero_right_hand_side_has_the_zero_solution():
    (matrix,), b = matrices(1, 1.0)
    solution = engine.Richardson().solution(Operator(matrix.mv), 0 * b)
    assert solution.outcome is Outcome.converged
    assert not solution.x.any()


@pytest.mark.parametrize("options", [{"steps": 0}, {"rate": 0.0}, {"rate": 1.5}])
def test_an_impossible_option_is_refused(options: dict[str, float]):
    with pytest.raises(engine.errors.ConfigInvalid, match="Richardson"):
        engine.Richardson(**options)
