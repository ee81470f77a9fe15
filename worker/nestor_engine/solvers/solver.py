"""What a solver promises: a solution at each outer step, and a state from one outer step to the next."""

from __future__ import annotations

import abc
from typing import Generic, TypeVar

import torch
from torch import Tensor

from nestor_engine.curvature import Operator
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.tensors.part_state import NoState, PartState

S = TypeVar("S", bound=PartState)


class Solver(abc.ABC, Generic[S]):
    """Approximates A⁻¹ b."""

    @property
    def supports_sharding(self) -> bool:
        """Whether several processes can solve together, each on its part of a batch."""
        return True

    @property
    def needs_optimizer_state(self) -> frozenset[str]:
        """Which tensors of the inner optimizer's state it reads."""
        return frozenset()

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
            The solution, and the state for the next outer step. A solve that falls short is not an exception: it is a
            `Solution` whose outcome says so.
        """

    def solution(self, operator: Operator, b: Tensor, x0: Tensor | None = None) -> Solution:
        """The solution with nothing kept from earlier outer steps."""
        return self.solve(operator, b, self.init(), x0)[0]


class StatelessSolver(Solver[NoState]):
    """A solver that keeps nothing."""

    def init(self) -> NoState:
        return NoState()


def with_residual(operator: Operator, b: Tensor, x: Tensor, outcome: Outcome) -> Solution:
    """A solution with its residual measured."""
    size = b.norm()
    residual = (b - operator(x)).norm() / size if size > 0 else size
    if not torch.isfinite(residual):
        outcome = Outcome.nonfinite
    return Solution(x, outcome, float(residual))
