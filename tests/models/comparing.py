"""A small problem for any model of eight features, and two ways to compute with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor_engine.hparams import L2
from nestor_engine.objective import Bilevel
from nestor_engine.problem.validation.checks import probe
from nestor_engine.program import load

N, FEATURES, CLASSES = 16, 8, 3
# Steps of full length, as Adam's, would enlarge the rounding of the smallest hypergradients.
QUICK = engine.Config(n_steps=2, inner=engine.Adam(1e-2), inner_steps=2, batch_size=8, outer=engine.SGD(0.1))


def cross_entropy(outputs: Any, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs, batch["y"])


def columns() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(N, FEATURES, generator=generator),
        "mask": torch.randint(0, 2, (N, FEATURES), generator=generator).float(),
        "y": torch.arange(N) % CLASSES,
    }


def problem(model: nn.Module, loss: Any = cross_entropy, **options: Any) -> engine.Problem:
    data = columns()
    return engine.Problem(model, L2(model, per="tensor", init=-4.0), loss, loss, train=data, val=data, **options)


def numbers(bilevel: Bilevel, data: Any) -> list[tuple[float, float]]:
    """Loss and norm of the hypergradient at each of two steps."""
    return [(step.val_loss, step.hypergradient_norm) for step in engine.optimize(bilevel, data, QUICK)]


def numbers_here_and_shipped(stated: engine.Problem) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """The same for the problem itself, and for its program."""
    program = stated.export()
    return numbers(stated.bilevel(), stated.data), numbers(load(program.graphs, program.tensors), stated.data)


def gradients(stated: engine.Problem) -> dict[str, Tensor]:
    """Of the training loss without its decay by the parameters, as the engine computes them."""
    bilevel = stated.bilevel()
    params = {name: p.clone().requires_grad_() for name, p in bilevel.params.items()}
    batch = probe(stated.data.train, bilevel)
    loss = bilevel.criterion(bilevel.forward(params, bilevel.buffers, {}, batch)[0], {}, batch)
    found = torch.autograd.grad(loss, list(params.values()))
    return dict(zip(params, found, strict=True))


def plain_gradients(model: nn.Module, stated: engine.Problem) -> dict[str, Tensor]:
    """The same by torch alone, from the module that its author wrote."""
    batch = probe(stated.data.train, stated.bilevel())
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(cross_entropy(model(batch["x"]), batch), list(params.values()))
    return dict(zip(params, found, strict=True))
