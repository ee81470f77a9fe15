"""How to invert: A x = b for a symmetric operator A, one method per file."""

from __future__ import annotations

from typing import Any

from nestor_engine.curvature.preconditioner import Preconditioner as Preconditioner
from nestor_engine.implementations import implementation_named
from nestor_engine.solvers.solution import Outcome as Outcome
from nestor_engine.solvers.solution import Solution as Solution
from nestor_engine.solvers.solver import Solver as Solver


def __getattr__(name: str) -> Any:
    return implementation_named(__name__, name)
