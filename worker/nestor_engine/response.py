"""How to differentiate: dF/dλ at one point, by the implicit function theorem."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestor_engine.bilevel import Batch, Bilevel, Tensors
from nestor_engine.curvature import Curvature, GaussNewton
from nestor_engine.flat import Ravel
from nestor_engine.point import Point
from nestor_engine.solvers import Neumann, Solution, Solver, WarmStarted


@dataclass(frozen=True)
class Hypergradient:
    """dF/dλ and what it was made from.

    Attributes:
        gradient: for each hyperparameter, of its shape.
        evaluation: the validation loss and metrics at this point.
        inner_gradient_norm: ‖∂f/∂w‖, which the theorem assumes to be zero.
        solution: of the adjoint system.
        products: curvature products used, those of norm and residual included.
    """

    gradient: Tensors
    evaluation: dict[str, float]
    inner_gradient_norm: float
    solution: Solution
    products: int


class Response(abc.ABC):
    """A way to the hypergradient."""

    @abc.abstractmethod
    def hypergradient(
        self,
        bilevel: Bilevel,
        ravel: Ravel,
        w: Tensor,
        buffers: Tensors,
        hparams: Tensors,
        train: Batch,
        val: Batch,
        memory: Tensors,
    ) -> Hypergradient:
        """dF/dλ at weights `w`, shape (n,); `memory` carries what is kept between outer steps."""


@dataclass(frozen=True)
class Implicit(Response):
    """The implicit function theorem [1].

    Let w*(λ) minimise f(·, λ). Differentiating its stationarity ∂f/∂w(w*(λ), λ) = 0 by λ gives

        H ∂w*/∂λ + ∂²f/∂w∂λ = 0,      H = ∂²f/∂w∂w,      so      ∂w*/∂λ = −H⁻¹ ∂²f/∂w∂λ,

    and the chain rule on F(λ) = g(w*(λ), λ), with H symmetric, gives

        dF/dλ = ∂g/∂λ − (∂²f/∂λ∂w) q,      H q = ∂g/∂w      (the adjoint system).

    The direct term ∂g/∂λ is zero for most hyperparameters and is always added. `curvature` stands
    for H and `solver` for its inverse; the error is that of both, and of w not being w*.

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """

    curvature: Curvature = field(default_factory=GaussNewton)
    solver: Solver = field(default_factory=lambda: WarmStarted(Neumann()))

    def hypergradient(
        self,
        bilevel: Bilevel,
        ravel: Ravel,
        w: Tensor,
        buffers: Tensors,
        hparams: Tensors,
        train: Batch,
        val: Batch,
        memory: Tensors,
    ) -> Hypergradient:
        point = Point(bilevel, ravel, w, buffers, hparams, train)
        evaluation, dg_dw, dg_dlambda = _outer(bilevel, ravel, point, buffers, val)
        operator = self.curvature.at(point, memory)
        solution = self.solver.solve(operator, dg_dw, memory=memory)
        indirect = point.mixed(solution.x)
        return Hypergradient(
            gradient={name: dg_dlambda[name] - indirect[name] for name in hparams},
            evaluation=evaluation,
            inner_gradient_norm=float(point.gradient.detach().norm()),
            solution=solution,
            products=operator.products,
        )


def _outer(
    bilevel: Bilevel, ravel: Ravel, point: Point, buffers: Tensors, val: Batch
) -> tuple[dict[str, float], Tensor, Tensors]:
    """g, ∂g/∂w of shape (n,), and ∂g/∂λ, zero where the validation loss does not read it."""
    told = bilevel.evaluate(ravel.tree(point.w), buffers, point.hparams, val)
    names = list(point.hparams)
    wanted = [point.w, *(point.hparams[name] for name in names)]
    slopes = torch.autograd.grad(told["loss"], wanted, allow_unused=True)
    filled = [torch.zeros_like(at) if slope is None else slope for at, slope in zip(wanted, slopes, strict=True)]
    return (
        {name: float(value.detach()) for name, value in told.items()},
        filled[0],
        dict(zip(names, filled[1:], strict=True)),
    )
