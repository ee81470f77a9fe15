"""Every solver agrees with the dense solution in float64, or reports that it does not."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import nestor_engine as engine
from nestor_engine.curvature import NormState, Operator
from nestor_engine.curvature.operator import NORM_SERVES
from nestor_engine.solvers import Outcome, Solver
from nestor_engine.solvers.sketch import sketch
from nestor_engine.solvers.warm_started import WarmStartedState
from nestor_engine.tensors.part_state import from_tensors
from tests.engine.device import DEVICE

F64 = torch.float64
SOLVERS: dict[str, Solver] = {
    "identity": engine.Identity(),
    "Neumann, 2 terms": engine.Neumann(2),
    "Neumann, 500 terms": engine.Neumann(500),
    "Neumann, fixed step": engine.Neumann(5, alpha=0.1),
    "warm-started Neumann": engine.WarmStarted(engine.Neumann(3)),
    "conjugate gradients": engine.ConjugateGradient(4, damping=0.0),
    "conjugate gradients to the end": engine.ConjugateGradient(100, damping=0.0, rtol=1e-10),
    "warm-started conjugate gradients": engine.WarmStarted(engine.ConjugateGradient(2, damping=0.0)),
    "preconditioned by a sketch": engine.PreconditionedCG(3, engine.NystromSketch(rank=4), damping=0.0),
    "direct": engine.Direct(),
    "Nyström": engine.Nystrom(rank=4),
}


def _system(n: int = 8, *, seed: int = 0, least: float = 0.1) -> tuple[Tensor, Tensor]:
    """A symmetric matrix with eigenvalues from `least` to 2, and a right-hand side."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=generator)).Q
    values = torch.linspace(least, 2.0, n, dtype=F64)
    return basis @ torch.diag(values) @ basis.T, torch.randn(n, dtype=F64, generator=generator)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_the_reported_residual_is_the_true_residual(solver: Solver):
    matrix, b = _system()
    solution = solver.solution(Operator(matrix.mv), b)
    assert solution.residual == pytest.approx(((b - matrix @ solution.x).norm() / b.norm()).item())


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_is_never_a_success(solver: Solver, bad: float):
    matrix, b = _system()
    b[0] = bad
    assert solver.solution(Operator(matrix.mv), b).outcome is Outcome.nonfinite


def test_a_sketch_of_nan_is_reported_by_the_solver():
    matrix, b = _system()
    solution = engine.PreconditionedCG(3).solution(Operator((matrix * math.nan).mv), b)
    assert solution.outcome is Outcome.nonfinite


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_zero_right_hand_side_has_the_zero_solution(solver: Solver):
    matrix, b = _system()
    solution = solver.solution(Operator(matrix.mv), torch.zeros_like(b))
    assert solution.x.count_nonzero() == 0
    assert solution.residual == 0


@given(terms=st.integers(0, 30), seed=st.integers(0, 1_000), n=st.integers(1, 8))
def test_neumann_is_the_partial_sum_of_the_geometric_series(terms: int, seed: int, n: int):
    matrix, b = _system(n, seed=seed)
    eye, alpha = torch.eye(n, dtype=F64), 0.3
    expected = alpha * sum((torch.linalg.matrix_power(eye - alpha * matrix, j) for j in range(terms + 1)), 0 * eye) @ b

    solution = engine.Neumann(terms, alpha=alpha).solution(Operator(matrix.mv), b)

    torch.testing.assert_close(solution.x, expected)


@given(seed=st.integers(0, 1_000), n=st.integers(1, 10))
def test_neumann_with_automatic_step_converges_to_the_dense_solve(seed: int, n: int):
    matrix, b = _system(n, seed=seed)
    solution = engine.Neumann(400).solution(Operator(matrix.mv), b)
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, b), rtol=1e-5, atol=1e-6)


EXACT = {
    "Neumann": engine.Neumann(600),
    "conjugate gradients": engine.ConjugateGradient(50, damping=0.0, rtol=1e-12),
    "preconditioned by a sketch": engine.PreconditionedCG(50, engine.NystromSketch(rank=3), damping=0.0, rtol=1e-12),
    "preconditioned by a whole sketch": engine.PreconditionedCG(
        50, engine.NystromSketch(rank=50), damping=0.0, rtol=1e-12
    ),
    "direct": engine.Direct(),
    "warm-started conjugate gradients": engine.WarmStarted(engine.ConjugateGradient(50, damping=0.0, rtol=1e-12)),
}


@pytest.mark.parametrize("solver", EXACT.values(), ids=EXACT)
def test_a_one_by_one_system_is_solved(solver: Solver):
    """Two published libraries return 0 for 2x = 2, because they return the iterate before the last."""
    solution = solver.solution(Operator(lambda v: 2 * v), torch.tensor([2.0], dtype=F64))
    assert solution.x.item() == pytest.approx(1.0)


@pytest.mark.parametrize("solver", EXACT.values(), ids=EXACT)
@given(seed=st.integers(0, 1_000), n=st.integers(1, 10))
@settings(max_examples=20)
def test_a_solver_with_enough_steps_reaches_the_dense_solve(solver: Solver, seed: int, n: int):
    matrix, b = _system(n, seed=seed)
    solution = solver.solution(Operator(matrix.mv), b)
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, b), rtol=1e-6, atol=1e-7)
    assert solution.outcome in (Outcome.converged, Outcome.truncated)


@pytest.mark.parametrize(
    "solver", [engine.ConjugateGradient(20, damping=0.0), engine.PreconditionedCG(20, damping=0.0)], ids=repr
)
def test_conjugate_gradients_stop_at_negative_curvature_and_say_so(solver: Solver):
    matrix, b = _system(least=-1.0)
    solution = solver.solution(Operator(matrix.mv), b)
    assert solution.outcome is Outcome.indefinite
    assert torch.isfinite(solution.x).all()


@pytest.mark.parametrize("solver", [engine.ConjugateGradient(50), engine.PreconditionedCG(50)], ids=repr)
@pytest.mark.parametrize("own", [0.0, 0.01, 0.2])
def test_conjugate_gradients_damp_a_system_that_has_no_damping_of_its_own(solver: Solver, own: float):
    matrix, b = _system()
    values, vectors = torch.linalg.eigh(matrix)
    operator = Operator(matrix.mv, damping=own, norm_state=NormState(vectors[:, -1].contiguous()))
    solution = solver.solution(operator, b)
    damped = matrix + (own or 0.03) * values[-1] * torch.eye(8, dtype=F64)
    torch.testing.assert_close(solution.x, torch.linalg.solve(damped, b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_operator_that_is_not_finite_is_never_a_success(solver: Solver, bad: float):
    solution = solver.solution(Operator(lambda v: v * bad), torch.ones(3, dtype=F64))
    assert solution.outcome in (Outcome.nonfinite, Outcome.diverged)
    assert torch.isfinite(solution.x).all()


def test_a_sketch_of_the_whole_operator_is_its_eigendecomposition():
    matrix, b = _system()
    rows, values = sketch(Operator(matrix.mv), b, rank=8, seed=1)
    torch.testing.assert_close(rows.T @ torch.diag(values) @ rows, matrix)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_sketch_of_higher_rank_than_the_operator_has_its_eigenvectors_and_no_more(dtype: torch.dtype, monkeypatch):
    monkeypatch.setattr("nestor_engine.solvers.sketch.PLACES", 30)  # in several parts, the last of which is shorter
    vectors = torch.linalg.qr(torch.randn(100, 3, dtype=F64)).Q.to(dtype)
    sizes = torch.tensor([1.0, 0.1, 0.01], dtype=dtype)
    rows, values = sketch(Operator(lambda v: vectors @ (sizes * (vectors.T @ v))), vectors[:, 0], rank=8, seed=1)
    assert len(rows) == 3 or values[3:].max() < 1e-6  # in float32, rounding may pass for a direction
    loose: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(values[:3], sizes, **loose)
    torch.testing.assert_close((rows[:3] @ vectors).abs(), torch.eye(3, dtype=dtype), **loose)


ALONE = """
import re, torch
from pathlib import Path
from nestor_engine.curvature import Operator
from nestor_engine.solvers.sketch import sketch

# Not ru_maxrss, which begins with what the parent held.
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
scales = torch.rand(4_000_000)
sketch(Operator(lambda v: v * scales[:999]), scales[:999], 20, seed=0)  # loads what any sketch loads
before = peak()
rows, _ = sketch(Operator(lambda v: v * scales), scales, 20, seed=0)
print((peak() - before) / rows.nbytes)
"""


def test_a_sketch_holds_little_more_than_its_rows():
    """Regression: it held five times as much, twelve gigabytes for a ResNet-18."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert 1 < float(done.stdout) < 2


def test_a_sketch_that_an_older_checkpoint_does_not_hold_is_made_anew():
    matrix, b = _system()
    kept = {"sketch.age": torch.tensor(1), "sketch.basis": torch.eye(8, 4, dtype=F64)}
    sketched = engine.NystromSketch(rank=8)
    apply, _ = sketched.prepare(Operator(matrix.mv), b, from_tensors(sketched.init(), kept))
    torch.testing.assert_close(apply(matrix @ b), b)


def test_a_kept_sketch_saves_its_products_until_it_is_refreshed():
    matrix, b = _system()
    sketched = engine.NystromSketch(rank=4, refresh=3)
    solver, products = engine.PreconditionedCG(1, sketched, damping=0.0, rtol=0), []
    state = solver.init()
    for _ in range(5):
        operator = Operator(matrix.mv)
        _, state = solver.solve(operator, b, state)
        products.append(operator.products)
    assert products == [6, 2, 2, 6, 2]


def test_the_nystrom_inverse_is_that_of_its_sketch():
    matrix, b = _system()
    got = engine.Nystrom(rank=8, rho=0.05).solution(Operator(matrix.mv), b)
    shifted = matrix + 0.05 * torch.linalg.eigvalsh(matrix).max() * torch.eye(8, dtype=F64)
    torch.testing.assert_close(got.x, torch.linalg.solve(shifted, b))


def test_a_singular_operator_is_not_inverted():
    solution = engine.Direct().solution(Operator(lambda v: 0 * v), torch.ones(3, dtype=F64))
    assert solution.outcome is Outcome.singular
    assert "damping" in solution.outcome.value


@pytest.mark.parametrize(
    "solver",
    [
        engine.Neumann(2),
        engine.WarmStarted(engine.Neumann(2)),
        engine.ConjugateGradient(3, damping=0.0),
        engine.PreconditionedCG(3),
        engine.Direct(),
        engine.Nystrom(2),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_zero_operator_is_singular_and_answered_with_zeros(solver: Solver, dtype: torch.dtype):
    """Regression: a step of 1 / tiny returned 1e38, labeled as a truncated series."""
    solution = solver.solution(Operator(lambda v: 0 * v), torch.ones(3, dtype=dtype))
    assert solution.x.count_nonzero() == 0
    assert solution.outcome is Outcome.singular
    assert solution.residual == 1


def test_a_dense_solve_of_a_network_is_refused():
    with pytest.raises(engine.errors.ConfigInvalid, match="ConjugateGradient"):
        engine.Direct().solution(Operator(lambda v: v), torch.ones(30_000))


def test_the_identity_is_the_series_without_terms():
    matrix, b = _system()
    zero_terms = engine.Neumann(0, alpha=1.0).solution(Operator(matrix.mv), b)
    torch.testing.assert_close(engine.Identity().solution(Operator(matrix.mv), b).x, zero_terms.x)


def test_terms_are_the_products_of_the_series_and_one_measures_the_residual():
    matrix, b = _system()
    operator = Operator(matrix.mv)
    engine.Neumann(3, alpha=0.1).solution(operator, b)
    assert operator.products == 4


def test_negative_curvature_makes_the_series_diverge_and_says_what_to_do():
    matrix, b = _system(least=-1.0)
    solution = engine.Neumann(60).solution(Operator(matrix.mv), b)
    assert solution.outcome is Outcome.diverged
    assert "GaussNewton" in solution.outcome.value
    assert torch.isfinite(solution.x).all()


def test_a_step_size_beyond_the_curvature_is_reported_with_a_finite_iterate():
    matrix, b = _system()
    solution = engine.Neumann(5_000, alpha=5.0).solution(Operator(matrix.mv), b)
    assert solution.outcome is Outcome.diverged
    assert torch.isfinite(solution.x).all()


def test_an_estimate_of_the_norm_that_is_too_low_does_not_make_a_definite_series_diverge():
    """One product refreshes the estimate, and a fresh batch may be steep where the last ones were flat."""
    matrix, b = _system(least=0.01)
    flattest = torch.linalg.eigh(matrix).eigenvectors[:, 0].contiguous()
    residuals = []
    for terms in range(12):
        operator = Operator(matrix.mv, norm_state=NormState(flattest))
        assert operator.norm(b) < 0.011
        solution = engine.Neumann(terms).solution(operator, b)
        assert solution.outcome is Outcome.truncated
        residuals.append(solution.residual)
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[-1] < 0.9 * residuals[0] < 0.9


def test_a_warm_start_goes_on_where_the_last_solve_ended():
    matrix, b = _system()
    solver, residuals = engine.WarmStarted(engine.Neumann(2)), []
    state = solver.init()
    for _ in range(60):
        solution, state = solver.solve(Operator(matrix.mv), b, state)
        residuals.append(solution.residual)
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[-1] < 1e-3 < residuals[0]


def test_a_warm_start_drops_a_bad_adjoint():
    matrix, b = _system()
    state = WarmStartedState(adjoint=-100 * b)
    solution, _ = engine.WarmStarted(engine.Neumann(2)).solve(Operator(matrix.mv), b, state)
    cold = engine.Neumann(2).solution(Operator(matrix.mv), b)
    torch.testing.assert_close(solution.x, cold.x)


def _ill_conditioned() -> tuple[Tensor, Tensor]:
    """Two steps of conjugate gradients from zero end with a residual above one here, but make progress."""
    values = torch.logspace(-3, 3, 12, dtype=F64)
    return torch.diag(values), values.rsqrt()


def test_a_cold_start_that_ends_badly_is_not_repeated():
    """Regression: without a stored adjoint, the retry repeated the same solve at twice the products."""
    matrix, b = _ill_conditioned()
    products = []
    cold = engine.ConjugateGradient(2, damping=0.0)
    for solver in (cold, engine.WarmStarted(cold)):
        operator = Operator(matrix.mv)
        assert solver.solution(operator, b).residual > 1
        products.append(operator.products)
    assert products[0] == products[1]


def test_if_warm_and_cold_residuals_exceed_one_the_smaller_is_kept():
    """Conjugate gradients lower the error, not the residual. Regression: a better warm start was dropped."""
    matrix, b = _ill_conditioned()
    solver = engine.WarmStarted(engine.ConjugateGradient(2, damping=0.0))
    cold, state = solver.solve(Operator(matrix.mv), b, solver.init())
    warm, state = solver.solve(Operator(matrix.mv), b, state)
    assert 1 < warm.residual < cold.residual
    torch.testing.assert_close(state.adjoint, warm.x)


def test_a_warm_started_series_on_an_indefinite_operator_never_overflows():
    """Warm starts accumulate negative directions from step to step and would reach inf within some steps."""
    matrix, b = _system(least=-0.5)
    solver = engine.WarmStarted(engine.Neumann(2))
    state = solver.init()
    for _ in range(2_000):
        solution, state = solver.solve(Operator(matrix.mv), b, state)
        assert torch.isfinite(solution.x).all()
    assert solution.x.norm() < 1e3 * b.norm()


def test_an_estimate_of_the_norm_serves_several_outer_steps_and_is_then_refreshed():
    matrix, state, products, norms = torch.diag(torch.tensor([3.0, 1.0, 0.5], dtype=F64)), NormState(), [], []
    like = torch.zeros(3, dtype=F64)
    for k in range(2 * NORM_SERVES + 1):
        operator = Operator((matrix * (2 if k else 1)).mv, norm_state=state)  # twice as steep after the first step
        norms.append(operator.norm(like))
        products.append(operator.products)
        state = operator.norm_state
    assert products == [10, *[0] * (NORM_SERVES - 1), 1, *[0] * (NORM_SERVES - 1), 1]
    assert norms[1] == norms[0] == pytest.approx(3, rel=1e-3)
    assert norms[-1] == pytest.approx(6, rel=1e-3)
