from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestor.errors import NotExportable
from nestor_engine import Problem
from nestor_engine.hparams import L2
from nestor_engine.program import Program, load
from tests.engine.program.problems import CLASSES, N, classes, cross_entropy, features


class Wrapped(nn.Module):
    """A linear layer, and a function on top that cannot be exported."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, CLASSES))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.inner(x))


def problem(function: Any, loss: Any = cross_entropy) -> Problem:
    model = Wrapped(function)
    return Problem(model, L2(model), loss, loss, train=(features(6), classes()), val=(features(6), classes()))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda out: out if out.sum() > 0 else -out, "Use torch.where in place of if"),
        (lambda out: out * out.mean().item(), "leave out .item()"),
        (lambda out: out * float(out.detach().numpy().mean()), "leaves torch for NumPy"),
        (lambda out: out / len(out), "one batch size only"),
        (lambda out: out.view(7, 2, 2).flatten(1), "one batch size only"),
        (lambda out: out if out.shape[0] > 4 else -out, "do not branch on the batch size"),
        (lambda out: torch.func.vmap(torch.sin)(out), "it uses torch.func"),
        (lambda out: out[: int((out.sum(1) > 0).sum())], "depend"),
    ],
    ids=["if", "item", "numpy", "len", "view", "batch size", "vmap", "slice"],
)
def test_an_unsupported_operation_is_reported_with_place_and_remedy(function: Any, message: str):
    with pytest.raises(NotExportable) as caught:
        problem(function, lambda out, batch: out.mean()).export()
    assert str(caught.value).startswith("The model cannot be exported")
    assert message in str(caught.value)
    if "one batch size" not in message and "branch on" not in message:
        assert "test_export.py, line" in str(caught.value)


def test_the_line_that_calls_len_is_found():
    with pytest.raises(NotExportable, match=r"test_export.py, line \d+: .*len\(out\)"):
        problem(lambda out: out / len(out)).export()


def test_a_loss_that_reads_the_weights_from_outside_is_refused():
    layer = nn.Linear(6, CLASSES)
    model = nn.Sequential(layer)

    def loss(out, batch):
        return cross_entropy(out, batch) + layer.weight.square().sum()

    data = features(6), classes()
    with pytest.raises(NotExportable, match=r"train_loss .* reads the model's parameter '0\.weight' directly"):
        Problem(model, L2(model), loss, cross_entropy, train=data, val=data).export()


def test_names_that_cannot_be_shipped_are_refused():
    data = features(6), classes()

    def loss(out, batch, hparams):
        return cross_entropy(out, batch) * hparams['a"b'].exp()

    model = nn.Sequential(nn.Linear(6, CLASSES))
    with pytest.raises(NotExportable, match=r"The hyperparameter"):
        Problem(model, {'a"b': torch.zeros(())}, loss, cross_entropy, train=data, val=data).export()


def test_the_generator_and_the_callers_tensors_are_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    made = problem(lambda out: F.dropout(out, 0.5))
    after = torch.random.get_rng_state()
    made.export()
    assert torch.equal(torch.random.get_rng_state(), after)
    assert not torch.equal(before, after)  # initial weights were drawn
    assert all(p.grad is None for p in made.model.parameters())


def test_a_selection_by_mask_may_be_shipped():
    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        known = batch["y"] > 0
        return F.cross_entropy(outputs[known], batch["y"][known])

    assert_same_loss(problem(lambda out: out, loss))


def test_mixed_precision_and_memory_that_was_never_written():
    def function(out: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = out @ out.T
        kept = out.new_empty(out.shape).bernoulli_(0.5)  # stochastic depth as it is usually written
        return out * kept * mixed.float().mean()

    made = problem(function)
    program = assert_same_loss(made)
    assert b"autocast" in program.graphs
    assert b"empty" not in program.graphs


def assert_same_loss(made: Problem) -> Program:
    program = made.export()
    loaded, eager = load(program.graphs, program.tensors), made.bilevel()
    batch = made.data.train | {"index": torch.arange(N)}
    losses = []
    for functions in (loaded, eager):
        torch.manual_seed(1)
        losses.append(functions.train_loss(eager.params, eager.buffers, eager.hparams, batch)[0])
    assert torch.equal(*losses)
    return program
