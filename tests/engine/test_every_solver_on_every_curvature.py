"""Every case × every curvature × every solver, cold and warm-started, against dense algebra in float64.

`test_curvature` holds products to the dense matrices; here solvers meet those matrices, so that each is built once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import nestor_engine as engine
from nestor_engine.curvature import Curvature, NormState, Operator
from nestor_engine.solvers import Outcome, Solution, Solver
from nestor_engine.solvers.sketch import sketch
from nestor_engine.tensors.random import derive_seed
from tests.engine.cases import CASES, dense, matrix

CURVATURES = [
    engine.Hessian(1.2),  # of the norm: more than any negative eigenvalue
    engine.GaussNewton(0.1),
    engine.EmpiricalFisher(0.1),
    engine.EmpiricalFisher(0.1, per="example"),
    engine.KFAC(0.1, fisher="empirical"),  # sampled signs of few examples may cancel
]
EXACT = [
    engine.Neumann(250),
    engine.ConjugateGradient(100, rtol=1e-11),
    engine.PreconditionedCG(100, engine.NystromSketch(rank=5), rtol=1e-11),
    engine.Direct(),
]
CUT = [
    engine.Identity(),
    engine.Neumann(0),
    engine.Neumann(3),
    engine.Neumann(3, alpha=1e-3),
    engine.ConjugateGradient(3, rtol=0),
    engine.PreconditionedCG(2, engine.NystromSketch(rank=5), rtol=0),
    engine.Nystrom(rank=5),
]
every_system = pytest.mark.parametrize("curvature", CURVATURES, ids=repr)
every_case = pytest.mark.parametrize("name", CASES)


@dataclass(frozen=True)
class System:
    """A x = b with A = C + δ‖C‖ I; `top` is C's eigenvector of the largest |eigenvalue|."""

    curvature: Tensor
    damping: float
    norm: float
    top: Tensor
    b: Tensor

    @property
    def A(self) -> Tensor:
        return self.curvature + self.damping * self.norm * torch.eye(len(self.b), dtype=self.b.dtype)

    def operator(self) -> Operator:
        # With the eigenvector to start from, the estimate of the norm is the norm.
        return Operator(self.curvature.mv, damping=self.damping, norm_state=NormState(self.top))


@functools.cache
def system(name: str, curvature: Curvature) -> System:
    undamped = matrix(name, replace(curvature, damping=0.0))
    values, vectors = torch.linalg.eigh(undamped)
    top = values.abs().argmax()
    case = dense(name)
    w = case.w.clone().requires_grad_()
    (b,) = torch.autograd.grad(case.outer(w, case.bilevel.hparams), w)
    assert curvature.damping != "auto"
    return System(undamped, curvature.damping, values[top].abs().item(), vectors[:, top].contiguous(), b)


def residual(of: System, x: Tensor) -> float:
    return ((of.b - of.A @ x).norm() / of.b.norm()).item()


@every_case
@every_system
@pytest.mark.parametrize("solver", EXACT, ids=repr)
def test_a_solver_run_to_its_end_gives_the_dense_solution(name: str, curvature: Curvature, solver: Solver):
    given = system(name, curvature)
    expected = torch.linalg.solve(given.A, given.b)
    for solution in cold_and_warm(solver, given):
        torch.testing.assert_close(solution.x, expected, rtol=1e-6, atol=1e-8 * expected.norm().item())
        assert solution.residual == pytest.approx(residual(given, solution.x), rel=1e-6, abs=1e-12)
        assert solution.outcome in (Outcome.converged, Outcome.truncated)


@every_case
@every_system
@pytest.mark.parametrize("solver", CUT, ids=repr)
def test_a_solver_cut_short_gives_the_iterate_of_its_definition(name: str, curvature: Curvature, solver: Solver):
    given = system(name, curvature)
    x = torch.zeros_like(given.b)
    for solution in cold_and_warm(solver, given):
        x = iterate(solver, given, x)
        torch.testing.assert_close(solution.x, x, rtol=1e-7, atol=1e-8 * x.norm().item())
        assert solution.residual == pytest.approx(residual(given, x), rel=1e-6, abs=1e-9)


def cold_and_warm(solver: Solver, given: System) -> Iterator[Solution]:
    """Two outer steps at one point: the first has nothing to start from."""
    warm = engine.WarmStarted(solver)
    state = warm.init()
    for _ in range(2):
        solution, state = warm.solve(given.operator(), given.b, state)
        yield solution


def iterate(solver: Solver, given: System, x0: Tensor) -> Tensor:
    """The answer that defines the solver for a start at x0, with dense matrices."""
    n, eye = len(given.b), torch.eye(len(given.b), dtype=given.b.dtype)
    match solver:
        case engine.Identity():
            return given.b
        case engine.Neumann(terms=terms, alpha=alpha):
            alpha = 1 / (given.norm * (1 + given.damping)) if alpha == "auto" else alpha
            series = sum((torch.linalg.matrix_power(eye - alpha * given.A, j) for j in range(terms + 1)), 0 * eye)
            return x0 + alpha * series @ (given.b - given.A @ x0)
        case engine.ConjugateGradient(steps=steps):
            return krylov(given, x0, eye, steps)
        case engine.PreconditionedCG(steps=steps, preconditioner=preconditioner):
            apply, _ = preconditioner.prepare(given.operator(), given.b, preconditioner.init())
            return krylov(given, x0, torch.stack([apply(row) for row in eye]), steps)
        case engine.Nystrom(rank=rank, rho=rho):
            rows, values = sketch(given.operator(), given.b, rank, seed=derive_seed(0, "nystrom"))
            shift = given.damping * given.norm + rho * values[0].item()
            return torch.linalg.solve(rows.T @ torch.diag(values) @ rows + shift * torch.eye(n).to(eye), given.b)
    raise TypeError(solver)


def krylov(given: System, x0: Tensor, preconditioner: Tensor, steps: int) -> Tensor:
    """The point of x0 + span{P r, (P A) P r, …} that is nearest to the solution in the norm of A.

    That is what conjugate gradients compute [1], here by projection onto an orthonormal basis.

    [1] Saad (2003), Iterative methods for sparse linear systems.
    """
    r = given.b - given.A @ x0
    if not r.any():
        return x0
    powers = [preconditioner @ r]
    for _ in range(steps - 1):
        powers.append(preconditioner @ (given.A @ (powers[-1] / powers[-1].norm())))
    basis, sizes, _ = torch.linalg.svd(torch.stack([p / p.norm() for p in powers], 1), full_matrices=False)
    basis = basis[:, sizes > 1e-9 * sizes[0]]
    return x0 + basis @ torch.linalg.solve(basis.T @ given.A @ basis, basis.T @ r)


@every_case
@pytest.mark.parametrize("preconditioner", [engine.KFAC(), engine.AdamDiagonal()], ids=repr)
def test_a_preconditioner_that_reads_the_loss_leads_to_the_dense_solution(name: str, preconditioner):
    """The preconditioner must be symmetric and definite, or the answer changes."""
    curvature, linearization = engine.GaussNewton(0.1), dense(name).linearization()
    given = system(name, curvature)
    linearization.optimizer_state = {"square": torch.rand(len(given.b), dtype=given.b.dtype)}
    operator, _ = curvature.at(linearization, NormState(given.top.clone()))
    solver = engine.PreconditionedCG(200, preconditioner, rtol=1e-11)
    expected = torch.linalg.solve(given.A, given.b)
    solution = solver.solution(operator, given.b)
    torch.testing.assert_close(solution.x, expected, rtol=1e-6, atol=1e-8 * expected.norm().item())
    assert solution.outcome is Outcome.converged
