"""The Neumann hypergradient as other libraries compute it: each a function of (task, products of the series)."""

# install_peers puts the libraries elsewhere than into .venv, so a type checker does not find them.
# pyright: reportMissingImports=false

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.task import Task

warnings.simplefilter("ignore")  # theirs, about functorch and pkg_resources


def betty(task: Task, terms: int) -> list[Tensor]:
    """Betty's `neumann`: p of `neumann_iterations` products and one summand more, times alpha, negated."""
    from betty.hypergradient.neumann import neumann

    weights, hparams = free(task.weights), free(task.hparams)
    lower = SimpleNamespace(
        paths=[],
        cur_batch=None,
        config=SimpleNamespace(neumann_iterations=terms, neumann_alpha=task.alpha),
        training_step_exec=lambda batch: task.inner(weights, hparams),
        trainable_parameters=lambda: weights,
    )
    upper = SimpleNamespace(trainable_parameters=lambda: hparams)
    vector = torch.autograd.grad(task.outer(weights, hparams), weights)
    return list(neumann(vector, lower, upper))


def torchopt(task: Task, terms: int) -> list[Tensor]:
    """TorchOpt's `custom_root` with `solve_inv(ns=True)`: `maxiter` products and one summand more, times alpha."""
    import torchopt

    def gradient(weights: tuple[Tensor, ...], hparams: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.func.grad(lambda w: task.inner(list(w), list(hparams)))(weights)

    solve = torchopt.linear_solve.solve_inv(ns=True, maxiter=terms, alpha=task.alpha)

    @torchopt.diff.implicit.custom_root(gradient, argnums=1, solve=solve)
    def trained(weights: tuple[Tensor, ...], hparams: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(w.detach().clone().requires_grad_() for w in weights)

    hparams = tuple(free(task.hparams))
    value = task.outer(list(trained(tuple(free(task.weights)), hparams)), list(hparams))
    return list(torch.autograd.grad(value, hparams))


def hypergrad(task: Task, terms: int) -> list[Tensor]:
    """hypergrad's `neumann`: `num_iters` products and one summand more, times lr."""
    from hypergrad.approx_hypergrad import neumann

    lists = lambda objective: lambda w, h: objective(list(w), list(h))
    at = (tuple(task.weights), tuple(task.hparams))
    return list(neumann(lists(task.inner), lists(task.outer), *at, terms, task.alpha))


def boat(task: Task, terms: int) -> list[Tensor]:
    """BOAT's `NS`: the series of the map w ↦ w − α ∂f/∂w, of `k` products and one summand more."""
    from boat_torch.na_ol import NS

    weights, hparams = free(task.weights), free(task.hparams)
    # Set to a reading that its solver takes for its own; it writes the answer into the hyperparameters' .grad.
    config = {
        "gm_op": [],
        "lower_level_opt": torch.optim.SGD(weights, lr=task.alpha),
        "CG": {"tolerance": 0.0, "k": terms},
        "GDA": {"alpha_init": 0.0, "alpha_decay": 0.0},
    }
    lower = lambda feed, upper_model, lower_model, params: task.inner(params, hparams)
    upper = lambda feed, upper_model, lower_model, params: task.outer(params, hparams)
    series = NS(lower, upper, nn.Module(), nn.Module(), weights, hparams, config)
    series.compute_gradients({}, {}, nn.Module(), lower_model_params=weights, hparams=hparams)
    return [cast(Tensor, h.grad) for h in hparams]


def curvlinops(task: Task, terms: int) -> list[Tensor]:
    """curvlinops' `NeumannInverseLinearOperator` of its Hessian; the mixed term, which it lacks, by hand."""
    return _curvlinops(task, terms, "HessianLinearOperator")


def curvlinops_gauss_newton(task: Task, terms: int) -> list[Tensor]:
    """The same with its Gauss–Newton matrix."""
    return _curvlinops(task, terms, "GGNLinearOperator")


def curvlinops_operator(task: Task, kind: str) -> Any:
    """One of its curvatures, plus the Hessian of the penalty, which is no part of its problems.

    Raises:
        ValueError: the task has no module.
    """
    import curvlinops
    from curvlinops._torch_base import PyTorchLinearOperator

    if task.case is None:
        raise ValueError("curvlinops wants a module")
    diagonal = [h.exp() for h in task.hparams]

    class Decay(PyTorchLinearOperator):
        SELF_ADJOINT = True
        dtype, device = diagonal[0].dtype, diagonal[0].device

        def _matmat(self, X: list[Tensor]) -> list[Tensor]:
            return [d.unsqueeze(-1) * x for d, x in zip(diagonal, X, strict=True)]

    case = task.case
    shapes = [tuple(w.shape) for w in task.weights]
    data, parameters = [(case.x, case.y)], list(case.model.train().parameters())
    of_loss = getattr(curvlinops, kind)(case.model, nn.CrossEntropyLoss(), parameters, data, check_deterministic=False)
    return of_loss + Decay(shapes, shapes)


def _curvlinops(task: Task, terms: int, kind: str) -> list[Tensor]:
    from curvlinops import NeumannInverseLinearOperator

    inverse = NeumannInverseLinearOperator(
        curvlinops_operator(task, kind), num_terms=terms, scale=task.alpha, check_nan=False
    )
    weights, hparams = free(task.weights), free(task.hparams)
    q = inverse @ list(torch.autograd.grad(task.outer(weights, hparams), weights))
    slope = torch.autograd.grad(task.inner(weights, hparams), weights, create_graph=True)
    return [-m for m in torch.autograd.grad(slope, hparams, q)]


def free(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


LIBRARIES: dict[str, Callable[[Task, int], list[Tensor]]] = {
    "betty-ml": betty,
    "torchopt": torchopt,
    "hypergrad": hypergrad,
    "boat-torch": boat,
    "curvlinops": curvlinops,
}
