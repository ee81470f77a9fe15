"""How to invert: A x = b for a symmetric operator A, one method a file."""

from __future__ import annotations

from nestor_engine.curvature.preconditioner import Preconditioner as Preconditioner
from nestor_engine.solvers.conjugate_gradient import ConjugateGradient as ConjugateGradient
from nestor_engine.solvers.conjugate_gradient import PreconditionedCG as PreconditionedCG
from nestor_engine.solvers.direct import Direct as Direct
from nestor_engine.solvers.identity import Identity as Identity
from nestor_engine.solvers.neumann import Neumann as Neumann
from nestor_engine.solvers.nystrom import Nystrom as Nystrom
from nestor_engine.solvers.preconditioners import AdamDiagonal as AdamDiagonal
from nestor_engine.solvers.preconditioners import NystromSketch as NystromSketch
from nestor_engine.solvers.richardson import Richardson as Richardson
from nestor_engine.solvers.solution import Outcome as Outcome
from nestor_engine.solvers.solution import Solution as Solution
from nestor_engine.solvers.solver import Solver as Solver
from nestor_engine.solvers.warm_started import WarmStarted as WarmStarted
