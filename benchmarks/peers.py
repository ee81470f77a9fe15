"""What other libraries answer: run by `benchmarks.agreement` in an environment that has them; prints JSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from benchmarks.problem import ALPHA, HPARAMS, TERMS, WEIGHTS, inner, outer


def betty(terms: int) -> list[Tensor]:
    """Betty's `neumann`: p of `neumann_iterations` products and one summand more, times alpha, negated."""
    from betty.hypergradient.neumann import neumann

    weights, hparams = _free(WEIGHTS), _free(HPARAMS)
    lower = SimpleNamespace(
        paths=[],
        cur_batch=None,
        config=SimpleNamespace(neumann_iterations=terms, neumann_alpha=ALPHA),
        training_step_exec=lambda batch: inner(weights, hparams),
        trainable_parameters=lambda: weights,
    )
    upper = SimpleNamespace(trainable_parameters=lambda: hparams)
    vector = torch.autograd.grad(outer(weights, hparams), weights)
    return list(neumann(vector, lower, upper))


def torchopt(terms: int) -> list[Tensor]:
    """TorchOpt's `custom_root` with `solve_inv(ns=True)`: `maxiter` products and one summand more, times alpha."""
    import torchopt

    def gradient(weights: tuple[Tensor, ...], hparams: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.func.grad(lambda w: inner(list(w), list(hparams)))(weights)

    solve = torchopt.linear_solve.solve_inv(ns=True, maxiter=terms, alpha=ALPHA)

    @torchopt.diff.implicit.custom_root(gradient, argnums=1, solve=solve)
    def trained(weights: tuple[Tensor, ...], hparams: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(w.detach().clone().requires_grad_() for w in weights)

    hparams = tuple(_free(HPARAMS))
    value = outer(list(trained(tuple(_free(WEIGHTS)), hparams)), list(hparams))
    return list(torch.autograd.grad(value, hparams))


def hypergrad(terms: int) -> list[Tensor]:
    """hypergrad's `neumann`: `num_iters` products and one summand more, times lr."""
    from hypergrad.approx_hypergrad import neumann

    lists = lambda objective: lambda w, h: objective(list(w), list(h))
    return list(neumann(lists(inner), lists(outer), tuple(WEIGHTS), tuple(HPARAMS), terms, ALPHA))


LIBRARIES: dict[str, Callable[[int], list[Tensor]]] = {"betty-ml": betty, "torchopt": torchopt, "hypergrad": hypergrad}


def _free(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # theirs, about functorch and pkg_resources
    flat = lambda gradient: torch.cat([g.detach().reshape(-1) for g in gradient]).tolist()
    print(json.dumps({name: [flat(library(terms)) for terms in TERMS] for name, library in LIBRARIES.items()}))
