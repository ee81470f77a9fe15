"""The response by the implicit function theorem."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nestor import options
from nestor_engine.curvature import Curvature
from nestor_engine.objective import Tensors
from nestor_engine.responses.response import Hypergradient, Moment, Response
from nestor_engine.solvers import Solver


class Implicit(options.Implicit, Response):
    """The implicit function theorem [1].

    Let w*(λ) minimise f(·, λ). Differentiating its stationarity ∂f/∂w(w*(λ), λ) = 0 by λ gives

        H ∂w*/∂λ + ∂²f/∂w∂λ = 0,      H = ∂²f/∂w∂w,      so      ∂w*/∂λ = −H⁻¹ ∂²f/∂w∂λ,

    and the chain rule on F(λ) = g(w*(λ), λ), with H symmetric, gives

        dF/dλ = ∂g/∂λ − (∂²f/∂λ∂w) q,      H q = ∂g/∂w      (the adjoint system).

    The direct term ∂g/∂λ is zero for most hyperparameters and is always added. `curvature` stands
    for H and `solver` for its inverse; the error is that of both, and of w not being w*.

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """

    if TYPE_CHECKING:
        curvature: Curvature
        solver: Solver

    def hypergradient(self, moment: Moment, memory: Tensors) -> Hypergradient:
        outer = moment.outer()
        point = moment.point()
        started = time.perf_counter()
        operator = self.curvature.at(point, memory)
        solution = self.solver.solve(operator, outer.by_w, memory=memory)
        solved = time.perf_counter()
        indirect = point.mixed(solution.x)
        return Hypergradient(
            gradient={name: direct - indirect[name] for name, direct in outer.by_hparams.items()},
            evaluation=outer.evaluation,
            inner_gradient_norm=float(point.gradient.norm()),
            solution=solution,
            products=operator.products,
            traced=point.traced,
            products_seconds=solved - started,
        )
