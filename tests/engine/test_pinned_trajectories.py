"""Trajectories equal those of pinned_trajectories.json, regardless of renamed code.

`python -m tests.engine.test_pinned_trajectories` writes that file anew, for a change of the arithmetic that is meant.
On another processor roundings may differ; on the one that wrote it, NESTOR_PINNED_BITWISE=1 asks for every bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor_engine import hparams as kinds
from tests.engine.pins import Trajectory, expect, trajectory

pytestmark = pytest.mark.cpu  # its draws are those of a CPU
PINNED = Path(__file__).with_name("pinned_trajectories.json")
N, N_VAL, FEATURES, CLASSES, STEPS = 15, 9, 3, 3, 5


def problem(make: Callable[[nn.Module], list[kinds.Hyperparameters]], model: nn.Module | None = None) -> engine.Problem:
    """A small network in float64, and the hyperparameters that `make` makes for it."""
    model = model or network()
    losses = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")
    try:
        torch.set_default_dtype(torch.float64)  # of hyperparameters
        return engine.Problem(model, make(model), losses, losses, **cast(Any, data()))
    finally:
        torch.set_default_dtype(torch.float32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 4), nn.GELU(), nn.Dropout(0.2), nn.Linear(4, CLASSES)).double()


def data() -> dict[str, tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    centers = torch.randn(CLASSES, FEATURES, dtype=torch.float64, generator=draws)
    splits = {}
    for name, n in (("train", N), ("val", N_VAL), ("test", 6)):
        y = torch.arange(n) % CLASSES
        splits[name] = centers[y] + torch.randn(n, FEATURES, dtype=torch.float64, generator=draws), y
    return splits


def weighted() -> engine.Problem:
    return problem(lambda model: [decay(model), kinds.ExampleWeights(N).with_prior(0)])


def decayed() -> engine.Problem:
    return problem(lambda model: [decay(model)])


def decay(model: nn.Module) -> kinds.L2:
    return kinds.L2(model, per="tensor", init=-3.0)


def config(inner: engine.SGD | engine.Adam | engine.AdamW | engine.RMSprop | None = None, **parts) -> engine.Config:
    trained = {"inner": inner or engine.Adam(2e-2), "inner_steps": 3, "batch_size": 7, "warmup_steps": 2}
    steered = {} if "outer" in parts else {"outer": engine.RMSprop(0.05), "val_batch_size": 6}
    return engine.Config(**{"n_steps": STEPS, **trained, **steered, "evaluate_every": 100, "seed": 3, **parts})


INNER = {
    "SGD": engine.SGD(0.2),
    "SGD with momentum": engine.SGD(0.05, momentum=0.9, weight_decay=0.01),
    "SGD with Nesterov momentum": engine.SGD(0.05, momentum=0.9, nesterov=True),
    "Adam": engine.Adam(2e-2, weight_decay=0.01),
    "AdamW": engine.AdamW(2e-2, weight_decay=0.1),
    "RMSprop": engine.RMSprop(1e-2, momentum=0.5),
}
RESPONSES = {
    "default": engine.Implicit(),
    "Gauss-Newton, warm-started Neumann series": engine.Implicit(
        engine.GaussNewton(), engine.WarmStarted(engine.Neumann(4))
    ),
    "Hessian, CG": engine.Implicit(engine.Hessian(0.5), engine.ConjugateGradient(4)),
    "empirical Fisher": engine.Implicit(engine.EmpiricalFisher(), engine.Neumann(3)),
    "empirical Fisher of batches": engine.Implicit(engine.EmpiricalFisher(per="batch"), engine.Neumann(3)),
    "KFAC, direct": engine.Implicit(engine.KFAC(), engine.Direct()),
    "CG on a sketch": engine.Implicit(
        engine.GaussNewton(), engine.PreconditionedCG(3, engine.NystromSketch(rank=5, refresh=3))
    ),
    "Richardson": engine.Implicit(
        engine.GaussNewton(), engine.WarmStarted(engine.Richardson(2, preconditioner=engine.NystromSketch(rank=5)))
    ),
    "Nystrom": engine.Implicit(engine.GaussNewton(), engine.Nystrom(rank=5)),
    "unrolled": engine.Unrolled(3),
    "hypernetwork": engine.Hypernetwork(rank=4, steps=2),
    "direct only": engine.DirectOnly(),
}
# One method each, under Adam.
SOLVERS = {
    "Gauss-Newton, identity": engine.Implicit(engine.GaussNewton(), engine.Identity()),
    "Hessian, direct": engine.Implicit(engine.Hessian(0.5), engine.Direct()),
    "Hessian, Neumann series of a given step size": engine.Implicit(engine.Hessian(), engine.Neumann(3, alpha=0.1)),
    "Gauss-Newton, warm-started CG": engine.Implicit(
        engine.GaussNewton(), engine.WarmStarted(engine.ConjugateGradient(3))
    ),
    "CG on Adam's diagonal": engine.Implicit(engine.GaussNewton(), engine.PreconditionedCG(3, engine.AdamDiagonal())),
    "CG on KFAC": engine.Implicit(engine.GaussNewton(), engine.PreconditionedCG(3, engine.KFAC(fisher="exact"))),
    "KFAC of empirical gradients": engine.Implicit(engine.KFAC(fisher="empirical", decay=0.5), engine.Direct()),
}
CONFIGS = {
    "folds": {"folds": engine.Folds(3), "n_steps": 7},
    "folds that take two steps each": {"folds": engine.Folds(2, every=2), "n_steps": 7},
    "folds and early stopping": {
        "folds": engine.Folds(2),
        "early_stopping": engine.EarlyStopping(fraction=0.34),
        "n_steps": 5,
    },
    "folds of KFAC": {
        "folds": engine.Folds(2),
        "response": engine.Implicit(engine.KFAC(), engine.Direct()),
        "n_steps": 5,
    },
    "early stopping": {
        "inner": engine.Adam(0.3),
        "early_stopping": engine.EarlyStopping(patience=2, fraction=0.34, min_steps=3),
        "n_steps": 12,
    },
    "outer learning rates": {"outer_lr": {"l2": 0.3, "example_weights": 0.1}},
    "clipped inner and outer gradients": {
        "inner": engine.SGD(0.3, clip_norm=0.1),
        "outer": engine.SGD(1.0, clip_norm=0.01),
    },
    "outer SGD": {"outer": engine.SGD(0.5, momentum=0.9, nesterov=True)},
    "outer Adam": {"outer": engine.Adam(0.05)},
    "outer AdamW": {"outer": engine.AdamW(0.05)},
    "outer RMSprop with momentum": {"outer": engine.RMSprop(0.05, momentum=0.5)},
    "step decay": {"inner": engine.Adam(2e-2, schedule=engine.StepDecay(4, 0.5))},
    "linear decay": {"inner": engine.SGD(0.2, schedule=engine.LinearDecay(12, 0.1, warmup=4))},
    "cosine decay": {"inner": engine.AdamW(2e-2, schedule=engine.CosineDecay(12, warmup=4))},
    "outer warm-up": {"outer": engine.RMSprop(0.05, schedule=engine.Warmup(warmup=3))},
    "unrolled to the first step": {"response": engine.Unrolled(3), "warmup_steps": 0},
    "a longer warm-up": {"warmup_steps": 11},
}
KINDS: dict[str, Callable[[], engine.Problem]] = {
    "bounds": lambda: problem(lambda model: [kinds.ExampleWeights(N).bounded(-0.1, 0.1).with_prior(0)]),
    "tuned dropout": lambda: problem(lambda model: [kinds.Dropout(model), decay(model)]),
    "batch norm": lambda: problem(lambda model: [decay(model)], normalized()),
    "augmentation": lambda: problem(lambda model: [kinds.Augmentation(Distort())]),
    "label correction": lambda: problem(lambda model: [kinds.LabelCorrection(data()["train"][1], CLASSES)]),
    "distilled data": lambda: problem(lambda model: [kinds.DistilledData(data()["train"][0])]),
    "loss reweighting": lambda: problem(lambda model: [kinds.LossReweighting(weigher(), reads="loss")]),
    "sparsity": lambda: problem(lambda model: [kinds.L1(model, per="weight").with_prior(0)]),
}


class Distort(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.scale * noise


def normalized() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.GELU(), nn.Linear(4, CLASSES)).double()


def weigher() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1)).double()


def of(make: Callable[[], engine.Problem], **parts) -> Callable[[bool | None], Trajectory]:
    """A case; whether products come from a trace makes no difference."""
    return lambda trace=None: trajectory(make(), config(**parts, trace=trace))


CASES = {
    **{
        f"{i}; {r}": of(weighted, inner=inner, response=response)
        for i, inner in INNER.items()
        for r, response in RESPONSES.items()
    },
    **{name: of(weighted, response=response) for name, response in SOLVERS.items()},
    **{name: of(decayed if "folds" in parts else weighted, **parts) for name, parts in CONFIGS.items()},
    **{name: of(make) for name, make in KINDS.items()},
}
TRACED = ["Adam; default", "SGD; Hessian, CG", "Adam; KFAC, direct", "folds", "batch norm"]


def pinned() -> dict[str, Trajectory]:
    return json.loads(PINNED.read_text())


def expect_pinned(name: str, trace: bool | None = None) -> None:
    # KFAC takes the root of the softmax's curvature, which has an eigenvalue zero: a root of rounding errors.
    expect(CASES[name](trace), pinned()[name], close=1e-6 if "KFAC" in name else 1e-9)


@pytest.mark.parametrize("name", CASES)
def test_a_trajectory_is_the_pinned_one(name: str):
    expect_pinned(name)


@pytest.mark.parametrize("name", TRACED)
def test_a_trajectory_whose_products_are_traced_is_the_pinned_one(name: str):
    expect_pinned(name, trace=True)


def test_nothing_is_pinned_that_no_case_makes():
    assert list(pinned()) == list(CASES)


if __name__ == "__main__":
    rows = [f"{json.dumps(name)}: {json.dumps(case(None))}" for name, case in CASES.items()]
    PINNED.write_text("{\n" + ",\n".join(rows) + "\n}\n")
