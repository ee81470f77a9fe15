"""The dense solve: exact, and only for problems of a few thousand weights."""

from __future__ import annotations

import torch
from torch import Tensor

from nestor import options
from nestor.errors import MatrixTooLarge
from nestor_engine.curvature import Operator
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import StatelessSolver, with_residual
from nestor_engine.tensors.linalg import solve_ex
from nestor_engine.tensors.part_state import NoState

MAX_WEIGHTS = 20_000  # a matrix of 3 GiB in float64


class Direct(options.Direct, StatelessSolver):
    """Builds the matrix, one product a row, and factorizes it: the exact implicit function theorem [1].

    A curvature with an inverse in closed form, such as KFAC, needs no matrix and has no limit of size.

    [1] Bengio (2000), Gradient-based optimization of hyperparameters.
    """

    def solve(
        self, operator: Operator, b: Tensor, state: NoState, x0: Tensor | None = None
    ) -> tuple[Solution, NoState]:
        """See `Solver.solve`. `x0` is ignored; a singular operator gives zeros.

        Raises:
            MatrixTooLarge: more than `MAX_WEIGHTS` weights, and no inverse in closed form.
        """
        del x0
        x = operator.inverse(b)
        if x is None:
            x = _dense_solve(operator, b)
        if not torch.isfinite(x).all():
            finite = torch.isfinite(b).all() and torch.isfinite(operator(b)).all()
            return Solution(torch.zeros_like(b), Outcome.singular if finite else Outcome.nonfinite, 1.0), state
        return with_residual(operator, b, x, Outcome.converged), state


def _dense_solve(operator: Operator, b: Tensor) -> Tensor:
    n = b.numel()
    if n > MAX_WEIGHTS:
        raise MatrixTooLarge(n=n, limit=MAX_WEIGHTS)
    matrix = operator(torch.eye(n, dtype=b.dtype, device=b.device)).double()
    x, failed = solve_ex((matrix + matrix.T) / 2, b.double())
    return x.to(b) if not failed else torch.full_like(b, torch.nan)
