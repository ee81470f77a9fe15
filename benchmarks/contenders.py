"""All contenders that compute a hypergradient: Nestor's methods, two textbook methods, and the peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import grad, jvp

import nestor_engine as engine
from benchmarks import peers
from benchmarks.installed import install_peers
from benchmarks.models import Case
from benchmarks.peers import LIBRARIES, free
from benchmarks.task import Task
from nestor_engine.autodiff.trace_cache import TraceCache
from nestor_engine.curvature import Curvature
from nestor_engine.objective import Tensors
from nestor_engine.responses import OuterStepContext
from nestor_engine.tensors.ravel import Ravel

TERMS = 20  # of the cold series, as in the slides


@dataclass(frozen=True)
class Contender:
    """One way to a hypergradient.

    Attributes:
        hypergradient: one, all hyperparameters in one vector; the next of a trial, unless `restart` came before.
        product: returns the multiplication with one vector at this point; None if it is not a separate part.
        shorter: the hypergradient without its products, if the cost of a product is only known as a difference.
        period: hypergradients after which its cost repeats.
    """

    implementation: str
    curvature: str
    solver: str
    hypergradient: Callable[[], Tensor]
    restart: Callable[[], None] = field(default=lambda: None)
    product: Callable[[], Callable[[], object]] | None = None
    shorter: Callable[[], object] | None = None
    period: int = 1


def methods(alpha: float) -> Iterator[tuple[str, str, engine.Implicit, int]]:
    """(curvature, solver, method, period) of Nestor's methods; the series has the same step size as the peers."""
    series = engine.Neumann(TERMS, alpha=alpha)
    warm = engine.WarmStarted(engine.Neumann(2))
    sketched = engine.WarmStarted(engine.PreconditionedCG(2, engine.NystromSketch(rank=50, refresh=10)))
    by_factors = engine.WarmStarted(engine.PreconditionedCG(2, engine.KFAC()))
    damped = engine.Hessian(damping=0.03)
    yield "Hessian", f"Neumann {TERMS}", engine.Implicit(engine.Hessian(), series), 1
    yield "Hessian", "CG 10", engine.Implicit(damped, engine.ConjugateGradient(10)), 1
    yield "Hessian", "warm Neumann 2", engine.Implicit(damped, warm), 1
    yield "Hessian", "identity", engine.Implicit(engine.Hessian(), engine.Identity()), 1
    yield "Gauss-Newton", f"Neumann {TERMS}", engine.Implicit(engine.GaussNewton(damping=0.0), series), 1
    yield "Gauss-Newton", "CG 10", engine.Implicit(engine.GaussNewton(), engine.ConjugateGradient(10)), 1
    yield "Gauss-Newton", "warm Neumann 2", engine.Implicit(engine.GaussNewton(), warm), 1
    yield "Gauss-Newton", "warm sketched CG 2", engine.Implicit(engine.GaussNewton(), sketched), 10
    yield "Gauss-Newton", "warm CG 2, KFAC", engine.Implicit(engine.GaussNewton(), by_factors), 1
    # Its norm differs from that of the Hessian, so it has its own step size.
    own = engine.Neumann(TERMS)
    yield "Fisher, per example", f"Neumann {TERMS}", engine.Implicit(engine.EmpiricalFisher(per="example"), own), 1
    yield "Fisher, per batch", f"Neumann {TERMS}", engine.Implicit(engine.EmpiricalFisher(per="batch"), own), 1
    yield "KFAC", "closed form", engine.Implicit(engine.KFAC(), engine.Direct()), 1


class Nestor:
    """The engine on one case. All methods share its traces, as in a trial."""

    def __init__(self, case: Case) -> None:
        problem = case.problem()
        bilevel = problem.bilevel()
        self.ravel = Ravel(bilevel.params)
        index = lambda x: {"index": torch.arange(len(x), device=x.device)}
        train, val = problem.data.train | index(case.x), problem.data.val | index(case.xv)
        weights = self.ravel.vector(bilevel.params)
        self.context = OuterStepContext.at(bilevel, weights, train, val, trace_cache=TraceCache())
        self._order = [f"l2.{name}" for name in bilevel.params]

    def flat(self, gradient: Tensors) -> Tensor:
        """All hyperparameters in one vector."""
        return torch.cat([gradient[name].reshape(-1) for name in self._order])

    def product(self, curvature: Curvature) -> Callable[[], object]:
        operator = curvature.operator(self.context.linearization())
        v = torch.randn_like(self.context.w)
        return lambda: operator.undamped(v)

    def contenders(self, alpha: float) -> Iterator[Contender]:
        for curvature, solver, method, period in methods(alpha):
            steps = _OuterSteps(self, method)
            yield Contender(
                *("Nestor", curvature, solver),
                steps.hypergradient,
                steps.restart,
                lambda method=method: self.product(method.curvature),
                period=period,
            )


class _OuterSteps:
    """Outer steps at one point, each with what the one before it kept."""

    def __init__(self, nestor: Nestor, method: engine.Implicit) -> None:
        self._nestor, self._method, self._state = nestor, method, method.init()

    def hypergradient(self) -> Tensor:
        hypergradient, self._state = self._method.hypergradient(self._nestor.context, self._state)
        return self._nestor.flat(hypergradient.gradient)

    def restart(self) -> None:
        self._state = self._method.init()


def reverse_over_reverse(task: Task, terms: int = TERMS) -> list[Tensor]:
    """The series on a retained graph, written by hand."""
    weights, hparams = free(task.weights), free(task.hparams)
    v = torch.autograd.grad(task.outer(weights, hparams), weights)
    slope = torch.autograd.grad(task.inner(weights, hparams), weights, create_graph=True)
    p = v
    for _ in range(terms):
        product = torch.autograd.grad(slope, weights, v, retain_graph=True)
        v = [a - task.alpha * b for a, b in zip(v, product, strict=True)]
        p = [a + b for a, b in zip(p, v, strict=True)]
    return [-task.alpha * m for m in torch.autograd.grad(slope, hparams, p)]


def forward_over_reverse(task: Task, terms: int = TERMS) -> list[Tensor]:
    """The same with `torch.func.jvp(torch.func.grad(f))` for each product."""
    weights, hparams = tuple(task.weights), tuple(task.hparams)
    slope = grad(lambda w: task.inner(list(w), list(hparams)))
    v = grad(lambda w: task.outer(list(w), list(hparams)))(weights)
    p = v
    for _ in range(terms):
        product = jvp(slope, (weights,), (v,))[1]
        v = tuple(a - task.alpha * b for a, b in zip(v, product, strict=True))
        p = tuple(a + b for a, b in zip(p, v, strict=True))
    mixed = lambda w: grad(lambda h: task.inner(list(w), list(h)))(hparams)
    return [-task.alpha * m for m in jvp(mixed, (weights,), (p,))[1]]


def others(task: Task) -> Iterator[Contender]:
    """The two textbook methods and the peers, all with the cold series."""
    install_peers()
    ways = {
        ("reverse over reverse", "Hessian"): reverse_over_reverse,
        ("torch.func.jvp(grad)", "Hessian"): forward_over_reverse,
        **{(name, "Hessian"): library for name, library in LIBRARIES.items()},
        ("curvlinops", "Gauss-Newton"): peers.curvlinops_gauss_newton,
    }
    for (name, curvature), way in ways.items():
        yield Contender(
            *(name, curvature, f"Neumann {TERMS}"),
            lambda way=way: torch.cat([m.reshape(-1) for m in way(task, TERMS)]).detach(),
            shorter=lambda way=way: way(task, 0),
        )
