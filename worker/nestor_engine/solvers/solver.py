"""The interface of solvers: a solution at each outer step, and a state from one outer step to the next."""

from __future__ import annotations

import abc
from typing import Generic, TypeVar

import torch
from torch import Tensor

from nestor import options
from nestor_engine.curvature import Operator
from nestor_engine.implementations import Implementation
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.tensors.linalg import vector_norm
from nestor_engine.tensors.part_state import NoState, PartState

S = TypeVar("S", bound=PartState)


class Solver(options.Solver, Implementation, abc.ABC, Generic[S]):
    """Approximates A⁻¹ b for a symmetric operator A on vectors of shape (n,)."""

    @abc.abstractmethod
    def init(self) -> S:
        """The state before the first outer step."""

    @abc.abstractmethod
    def solve(self, operator: Operator, b: Tensor, state: S, x0: Tensor | None = None) -> tuple[Solution, S]:
        """Solve A x = b.

        Args:
            operator: computes A v for v of shape (n,).
            b: right-hand side, shape (n,).
            state: what an earlier outer step returned, or `init()`.
            x0: where to start, shape (n,); zeros by default.

        Returns:
            The solution, and the state for the next outer step. A failed solve raises nothing: it returns a
            `Solution` whose outcome says so.
        """

    def solution(self, operator: Operator, b: Tensor, x0: Tensor | None = None) -> Solution:
        """The solution without a state from earlier outer steps."""
        return self.solve(operator, b, self.init(), x0)[0]


class ColdSolver(options.ColdSolver, Solver[S]):
    """A solver that `WarmStarted` can start from its last solution."""


class StatelessSolver(ColdSolver[NoState]):
    """A solver without a state."""

    def init(self) -> NoState:
        """The empty state."""
        return NoState()


def with_residual(operator: Operator, b: Tensor, x: Tensor, outcome: Outcome) -> Solution:
    """The solution x with its residual, which takes one product; `nonfinite` replaces `outcome` if it is not finite."""
    size = vector_norm(b)
    residual = vector_norm(b - operator(x)) / size if size > 0 else size
    if not torch.isfinite(residual):
        outcome = Outcome.nonfinite
    return Solution(x, outcome, float(residual))
