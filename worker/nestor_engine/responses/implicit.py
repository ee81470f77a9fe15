"""The response from the implicit function theorem."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nestor import options
from nestor_engine.curvature import Curvature
from nestor_engine.responses.response import Hypergradient, OuterStepContext, Response
from nestor_engine.solvers import Solver
from nestor_engine.tensors.linalg import vector_norm
from nestor_engine.tensors.part_state import NoState, PartState


@dataclass(frozen=True)
class ImplicitState(PartState):
    """The states of the curvature and of the solver."""

    curvature: PartState = field(default_factory=NoState)
    solver: PartState = field(default_factory=NoState)


class Implicit(options.Implicit, Response[ImplicitState]):
    """The implicit function theorem [1].

    Let w*(λ) minimize f(·, λ). Differentiating its stationarity ∂f/∂w(w*(λ), λ) = 0 by λ gives

        H ∂w*/∂λ + ∂²f/∂w∂λ = 0,      H = ∂²f/∂w∂w,      so      ∂w*/∂λ = −H⁻¹ ∂²f/∂w∂λ,

    and the chain rule on F(λ) = g(w*(λ), λ), with H symmetric, gives

        dF/dλ = ∂g/∂λ − (∂²f/∂λ∂w) q,      H q = ∂g/∂w      (the adjoint system).

    The direct term ∂g/∂λ is zero for most hyperparameters and is always added. `curvature` stands
    for H, and `solver` for its inverse. Both cause errors, and so does the difference between w and w*.

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """

    if TYPE_CHECKING:
        curvature: Curvature[Any]
        solver: Solver[Any]

    def init(self) -> ImplicitState:
        """The states of the curvature and of the solver before the first outer step."""
        return ImplicitState(self.curvature.init(), self.solver.init())

    def hypergradient(self, context: OuterStepContext, state: ImplicitState) -> tuple[Hypergradient, ImplicitState]:
        """dF/dλ by one adjoint solve on the training batch of the outer step."""
        outer = context.outer()
        linearization = context.linearization()
        started = time.perf_counter()
        operator, curvature_state = self.curvature.at(linearization, state.curvature)
        solution, solver_state = self.solver.solve(operator, outer.by_w, state.solver)
        solved = time.perf_counter()
        indirect = linearization.mixed(solution.x)
        hypergradient = Hypergradient(
            gradient={name: direct - indirect[name] for name, direct in outer.by_hparams.items()},
            evaluation=outer.evaluation,
            inner_gradient_norm=float(vector_norm(linearization.gradient)),
            solution=solution,
            products=operator.products,
            traced=linearization.traced,
            products_seconds=solved - started,
        )
        return hypergradient, ImplicitState(self.curvature.settle(operator, curvature_state), solver_state)
