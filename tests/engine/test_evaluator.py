"""Steps are judged on all examples of a split, without a change of the trajectory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor.errors import Diverged, StateInvalid
from nestor_engine.data.folds import Partition
from nestor_engine.data.splits import INDEX
from nestor_engine.hparams import L2
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training import evaluation

N_TRAIN, N_VAL = 30, 23
FOLDS = engine.Folds(3)
HELD_OUT = engine.EarlyStopping(patience=50, fraction=0.4)


def losses(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def hits(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (outputs.argmax(1) == batch["y"]).to(outputs.dtype)


def problem(val_loss: Callable[..., Tensor] = losses, **metrics: Callable[..., Tensor]) -> engine.Problem:
    """In float64, with running means, dropout, and more validation examples than a batch has."""
    torch.manual_seed(0)
    layers = (nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))
    model = nn.Sequential(*layers).double()
    x, y = torch.randn(N_TRAIN + N_VAL, 4, dtype=torch.float64), torch.randint(3, (N_TRAIN + N_VAL,))
    train, val = slice(N_TRAIN), slice(N_TRAIN, None)
    return engine.Problem(
        model, L2(model, per="weight", init=-3.0), losses, val_loss,
        metrics={"accuracy": hits, **metrics}, train=(x[train], y[train]), val=(x[val], y[val]), test=(x, y),
    )  # fmt: skip


def config(**options: Any) -> engine.Config:
    small = {"n_steps": 5, "inner": engine.Adam(3e-2), "inner_steps": 2, "batch_size": 8, "val_batch_size": 7}
    return engine.Config(**{**small, "outer": engine.Adam(0.3), "trace": False, "evaluate_every": 2, **options})


def run(how: engine.Config, stated: engine.Problem | None = None, **options: Any) -> list[engine.Step]:
    stated = stated or problem()
    return list(engine.optimize(stated.bilevel(), stated.data, how, **options))


def by_hand(state: engine.State, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Loss and accuracy of a state, computed with the module alone."""
    model = problem().model
    model.load_state_dict({**state.params, **state.buffers})
    with torch.no_grad():
        outputs = model.eval()(x)
    return F.cross_entropy(outputs, y).item(), (outputs.argmax(1) == y).double().mean().item()


def test_a_step_s_value_is_the_loss_on_all_validation_examples_and_its_val_loss_that_of_its_batch():
    steps, val = run(config()), problem().data.val
    assert [step.number for step in steps if step.value is not None] == [2, 4, 5]
    assert [step.number for step in steps if step.metrics] == [2, 4, 5]
    for step in steps:
        assert step.val_examples == 7
        if step.value is not None:
            found = step.value, step.metrics["accuracy"]
            assert found == pytest.approx(by_hand(step.state, val["x"], val["y"]), rel=1e-6)
            assert step.value != step.val_loss


def test_evaluations_change_nothing_else():
    often, seldom = run(config(evaluate_every=1)), run(config(evaluate_every=100))
    assert [step.state.save() for step in often] == [step.state.save() for step in seldom]
    assert [step.val_loss for step in often] == [step.val_loss for step in seldom]
    assert [step.number for step in seldom if step.value is not None] == [5]


def test_with_folds_it_is_the_mean_over_those_that_have_begun_each_on_its_own_examples():
    stated, how = problem(), config(folds=FOLDS, evaluate_every=1)
    partition = Partition(stated.data, FOLDS, None, how.seed)
    for step in run(how, stated):
        assert len(step.state.folds) == min(step.number, 3)
        found = []
        for number, fold in enumerate(step.state.folds):
            _, view = partition.views(number)
            state = engine.State(folds=(fold,), hparams={}, outer_optimizer_state={}, layout=step.state.layout)
            examples = view.all()
            found.append(by_hand(state, examples["x"], examples["y"]))
        means = tuple(sum(each) / len(found) for each in zip(*found, strict=True))
        assert (step.value, step.metrics["accuracy"]) == pytest.approx(means, rel=1e-6)


def test_with_held_out_examples_each_step_is_judged_on_all_of_these():
    stated, how = problem(), config(early_stopping=HELD_OUT)
    held_out = Partition(stated.data, None, HELD_OUT, how.seed).held_out
    assert held_out is not None
    for step in run(how, stated):
        assert step.value == step.held_out_loss
        found = step.value, step.metrics["accuracy"]
        assert found == pytest.approx(by_hand(step.state, held_out["x"], held_out["y"]), rel=1e-6)


def test_with_folds_and_held_out_examples_it_is_the_mean_over_the_last_step_of_each():
    steps = run(config(folds=FOLDS, early_stopping=HELD_OUT, n_steps=6))
    stated = problem()
    held_out = Partition(stated.data, FOLDS, HELD_OUT, 0).held_out
    assert held_out is not None
    alone = [by_hand(step.state, held_out["x"], held_out["y"])[1] for step in steps]
    for number, step in enumerate(steps, start=1):
        last = alone[max(0, number - 3) : number]
        assert step.metrics["accuracy"] == pytest.approx(sum(last) / len(last))


@pytest.mark.parametrize("division", [{"folds": FOLDS}, {"early_stopping": HELD_OUT}, {}], ids=str)
def test_examples_keep_their_positions_as_index(division: dict[str, Any]):
    stated = problem(at=lambda outputs, batch: batch[INDEX].to(outputs.dtype))
    partition = Partition(stated.data, division.get("folds"), division.get("early_stopping"), 0)
    expected = partition.views(0)[1].all()[INDEX] if partition.held_out is None else partition.held_out[INDEX]
    first, *_ = run(config(**division, n_steps=1), stated)
    assert first.metrics["at"] == pytest.approx(expected.double().mean().item())


def test_the_step_after_which_the_user_ends_the_training_is_evaluated_and_is_the_last():
    asked = iter([False, False, True])
    steps = run(config(n_steps=100, evaluate_every=100), ending=lambda: next(asked))
    whole = run(config(evaluate_every=100))
    assert [step.number for step in steps if step.value is not None] == [3] == [len(steps)]
    assert steps[-1].test_loss is None
    assert [step.state.save() for step in steps] == [step.state.save() for step in whole[:3]]
    often = run(config(evaluate_every=1))
    assert (steps[-1].value, steps[-1].metrics) == (often[2].value, often[2].metrics)


@pytest.mark.parametrize("division", [{"folds": FOLDS}, {}], ids=str)
def test_a_step_is_evaluated_afterwards_as_it_would_have_been(division: dict[str, Any]):
    stated = problem()
    late, often = run(config(**division, evaluate_every=100), stated)[2], run(config(**division, evaluate_every=1))[2]
    assert late.value is None
    step = engine.evaluated(stated.bilevel(), stated.data, config(**division), late)
    assert (step.value, step.metrics) == (often.value, often.metrics)
    assert engine.evaluated(stated.bilevel(), stated.data, config(**division), often) is often


def test_a_loss_that_is_not_finite_on_an_example_outside_of_the_batch_ends_the_training():
    seen = set[int]()
    watched = problem(lambda outputs, batch: seen.update(batch[INDEX].tolist()) or losses(outputs, batch))
    steps = engine.optimize(watched.bilevel(), watched.data, config(n_steps=3, evaluate_every=100))
    assert [next(steps).value, next(steps).value] == [None, None]
    unseen = min(set(range(N_VAL)) - seen)

    def val_loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return losses(outputs, batch) / (batch[INDEX] != unseen).to(outputs.dtype)

    with pytest.raises(Diverged, match="Step 2: the loss on all validation examples is not finite"):
        run(config(), problem(val_loss))


def test_a_result_has_the_weights_and_hyperparameters_of_a_step_and_no_training_continues_from_it():
    stated = problem()
    last = run(config(), stated)[-1].state
    result = engine.State.load(last.result().save())
    assert (result.step, result.layout) == (last.step, last.layout)
    for held, left in ((result.params, last.params), (result.buffers, last.buffers), (result.hparams, last.hparams)):
        assert held.keys() == left.keys()
        assert all(torch.equal(held[name], left[name].cpu()) for name in held)
    assert len(result.save()) < len(last.save()) / 2
    warm = engine.start_from(stated.bilevel(), result)
    assert torch.equal(Ravel(warm.params).vector(warm.params), last.weights)
    with pytest.raises(StateInvalid, match="it is a result without the optimizers' state"):
        next(engine.optimize(stated.bilevel(), stated.data, config(), result))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)

    def hidden(self, x: Tensor) -> Tensor:
        return self.first(x).tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x))


class InputGradient(Net):
    """An energy model: its output is the gradient by its input."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        energy = self.last(self.hidden(x)).square().sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0][:, :2]


class InnerStep(Net):
    """A model that takes a gradient step of its own before it predicts."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.last.weight
        gradient = torch.autograd.grad(weight.pow(4).sum(), weight, create_graph=True)[0]
        return self.hidden(x) @ (weight - 0.1 * gradient).T + self.last.bias


class Hook(Net):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(x)
        hidden.register_hook(lambda gradient: 2 * gradient)
        return self.last(hidden)


class RetainedGradient(Net):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(x)
        hidden.retain_grad()
        return self.last(hidden)


@pytest.mark.parametrize("model", [Net, InputGradient, InnerStep, Hook, RetainedGradient])
@pytest.mark.parametrize("trace", [True, False])
def test_a_forward_pass_that_needs_the_graph_is_evaluated_too(
    model: type[Net], trace: bool, monkeypatch: pytest.MonkeyPatch
):
    # Evaluations ran without a graph, in which torch refuses hooks and derivatives, and the trial failed.
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 5)
    torch.manual_seed(0)
    net, x, y = model(), torch.randn(12, 4), torch.randint(2, (12,))
    stated = engine.Problem(net, L2(net), losses, losses, train=(x, y), val=(x, y))
    last = run(config(trace=trace), stated)[-1]
    net.load_state_dict(last.state.params)
    assert last.value == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-5)
