"""What a step reports about its hypergradient: agreement with the step before, and whether the weights have settled."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestor_engine as engine
from nestor_engine.data.splits import Batches
from nestor_engine.hparams import L2, ExampleWeights, LabelCorrection
from nestor_engine.objective import Batch
from nestor_engine.tensors.linalg import vector_norm
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.diagnostics import BATCHES, GROWN
from nestor_engine.training.inner_loop import InnerLoop
from nestor_engine.training.metrics import cosines
from nestor_engine.training.state import FoldState

WARNING = "the weights are not near a minimum"


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


# --- agreement of consecutive hypergradients --------------------------------------------------------

AGREEMENT = {
    "the same direction": ({"a": t(1, 2)}, {"a": t(2, 4)}, 1.0, {"a": 1.0}),
    "opposite directions": ({"a": t(1, 2)}, {"a": t(-1, -2)}, -1.0, {"a": -1.0}),
    "dense, at an angle": ({"a": t(1, 1)}, {"a": t(1, -3)}, -2 / math.sqrt(20), {"a": -2 / math.sqrt(20)}),
    "entries that one of them touched": ({"a": t(3, 4, 7, 0)}, {"a": t(3, 4, 0, 9)}, 1.0, {"a": 1.0}),
    "no entry that both touched": ({"a": t(1, 0)}, {"a": t(0, 1)}, None, {"a": None}),
    "zero": ({"a": t(0, 0)}, {"a": t(1, 1)}, None, {"a": None}),
    "sparse beside dense": (
        {"a": t(1, 0, 0), "b": t(1)}, {"a": t(0, 1, 0), "b": t(-2)}, -1.0, {"a": None, "b": -1.0},
    ),
    "two that differ": (
        {"a": t(3), "b": t(4)}, {"a": t(3), "b": t(-4)}, (9 - 16) / 25, {"a": 1.0, "b": -1.0},
    ),
    "a number and a matrix": (
        {"a": torch.tensor(2.0), "b": t(1, 2, 3, 4).reshape(2, 2)},
        {"a": torch.tensor(2.0), "b": t(1, 2, 3, 4).reshape(2, 2)}, 1.0, {"a": 1.0, "b": 1.0},
    ),
    "of different types": ({"a": t(1, 2).double(), "b": t(1)}, {"a": t(1, 2).double(), "b": t(1)}, 1.0,
                           {"a": 1.0, "b": 1.0}),
    "nothing before": ({"a": t(1)}, {}, None, {"a": None}),
    "nothing at all": ({}, {}, None, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", AGREEMENT)
def test_the_cosine_is_over_the_entries_that_both_touched(case: str):
    now, before, expected, by_name = AGREEMENT[case]
    whole, each = cosines(now, before)
    assert whole == (None if expected is None else pytest.approx(expected))
    assert each == {name: None if value is None else pytest.approx(value) for name, value in by_name.items()}


def linear(n: int, **options: Any) -> engine.Problem:
    """Three classes, a weight and soft labels for each of `n` examples, and a decay."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3), torch.randn(n, 4), torch.arange(n) % 3
    loss = lambda outputs, batch: nn.functional.cross_entropy(outputs, batch["y"], reduction="none")
    kinds = [L2(model, per="tensor"), ExampleWeights(n), LabelCorrection(y, classes=3)]
    return engine.Problem(model, kinds, loss, loss, train=(x, y), val=(x[:20], y[:20]), **options)


def test_steps_on_different_batches_say_nothing_about_the_weights_of_examples():
    """Regression: the cosine over all entries of 1,000 weights, of which 128 are touched, had a median of 0.005."""
    problem = linear(60)
    config = engine.Config(n_steps=6, inner_steps=1, batch_size=15)
    steps = list(engine.optimize(problem.bilevel(), problem.data, config))
    for step in steps:
        summary = step.hyperparameters
        assert (summary["l2"].touched, summary["example_weights"].touched) == (1.0, 0.25)
    for step in (*steps[1:4], *steps[5:]):  # the fifth begins the second pass over the examples
        summary = step.hyperparameters
        assert summary["example_weights"].gradient_cosine is None
        assert step.hypergradient_cosine == pytest.approx(summary["l2"].gradient_cosine)
    whole = engine.Config(n_steps=2, inner_steps=1, batch_size=60)
    *_, last = engine.optimize(problem.bilevel(), problem.data, whole)
    summary = last.hyperparameters["example_weights"]
    assert summary.touched == 1.0
    assert summary.gradient_cosine is not None
    assert summary.gradient_cosine > 0.5


# --- whether the weights have settled ---------------------------------------------------------------


class Noisy(nn.Module):
    """Settles at scale = 1 with a mean gradient of zero, while that of each batch grows with the scale."""

    def __init__(self, scale: float = 0.0) -> None:
        super().__init__()
        self.scale, self.w = nn.Parameter(torch.tensor(scale)), nn.Parameter(torch.zeros(50))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.scale.expand(len(x)), self.scale * (x @ self.w)], 1)


def noisy(model: nn.Module) -> engine.Problem:
    generator = torch.Generator().manual_seed(0)
    x = 1.4 * torch.randn(32, 50, generator=generator)
    x -= x.mean(0)
    loss = lambda outputs, batch: 0.5 * (outputs[:, 0] - 1).square() + outputs[:, 1] + 0 * batch["x"].sum(1)
    val_loss = lambda outputs, batch: (outputs[:, 0] - 0.5).square()
    return engine.Problem(
        model, L2(model, per="tensor", init=-9.0), loss, val_loss, train={"x": x}, val={"x": x[:4]}, inputs="x"
    )


def regression(model: nn.Module, x: Tensor) -> engine.Problem:
    y = torch.randn(len(x), 1)
    loss = lambda outputs, batch: (outputs - batch["y"]).square().mean(1)
    return engine.Problem(model, L2(model, per="tensor", init=-9.0), loss, loss, train=(x, y), val=(x, y))


def run(problem: engine.Problem, **options: Any) -> list[engine.Step]:
    config = engine.Config(**{"n_steps": 20, "inner": engine.SGD(0.05), "inner_steps": 4, "batch_size": 4, **options})
    return list(engine.optimize(problem.bilevel(), problem.data, config))


def test_the_noise_of_mini_batches_is_not_a_distance_from_a_minimum():
    steps = run(noisy(Noisy()), inner=engine.SGD(0.02), inner_steps=16)
    for checked in (steps[9], steps[19]):
        assert checked.inner_gradient_ratio is not None
        assert checked.inner_gradient_ratio > GROWN
    assert [warning for step in steps for warning in step.warnings if WARNING in warning] == []


def test_weights_that_move_away_from_the_minimum_are_warned_about_once():
    x = torch.diag_embed(torch.tensor([1.0, 0.1, 0.1])).repeat(10, 1)  # its curvature is 2 / 30 × 10 at most
    torch.manual_seed(0)
    problem = regression(nn.Linear(3, 1, bias=False), x)
    for batch_size in (15, 30):
        steps = run(problem, inner=engine.SGD(3.4), inner_steps=1, batch_size=batch_size, n_steps=40)
        warned = [step.number for step in steps for warning in step.warnings if WARNING in warning]
        assert len(warned) == 1
        assert warned[0] in (10, 20, 40)


@pytest.mark.parametrize("batch_size", [8, 10, 80], ids=["a tenth", "an eighth", "all examples"])
@pytest.mark.parametrize("steps", [0, 400], ids=["at the start", "near the minimum"])
def test_the_norm_of_the_mean_gradient_is_estimated_from_batches(batch_size: int, steps: int):
    torch.manual_seed(0)
    problem = regression(nn.Linear(20, 1), torch.randn(80, 20))
    bilevel, train, ravel = problem.bilevel(), problem.data.train, Ravel(problem.bilevel().params)
    loop = InnerLoop(bilevel, ravel, train, engine.SGD(0.02), seed=0, batch_size=batch_size)
    fold, *_ = loop.run(FoldState.initial(bilevel, engine.SGD(0.02), bilevel.hparams), bilevel.hparams, steps or 1)

    def norm(batch: Batch) -> float:
        w = fold.weights.clone().requires_grad_()
        loss, _ = bilevel.train_loss_at(ravel.tree(w), fold.buffers, bilevel.values(bilevel.hparams), batch)
        return float(vector_norm(torch.autograd.grad(loss, w)[0]))

    exact, of_one = norm(Batches(train, None, seed=0)[0]), norm(loop.source[fold.inner_steps])
    found = loop.gradient_norm(fold, bilevel.hparams, BATCHES)
    if batch_size >= 10:  # they are all batches of a pass
        assert found == pytest.approx(exact, rel=1e-3)
    elif steps == 0:
        assert found == pytest.approx(exact, rel=0.3)
    else:
        assert exact < 0.3 * of_one
        assert found < 0.6 * of_one
