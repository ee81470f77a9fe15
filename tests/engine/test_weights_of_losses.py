"""Weights of groups, classes and tasks, and smoothed labels: what torch's losses take as constants, tuned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor import errors
from nestor.errors import NestorError
from nestor_engine.hparams import (
    L2,
    ClassWeights,
    ExampleWeights,
    GroupWeights,
    Hyperparameters,
    LabelCorrection,
    LabelSmoothing,
    LossReweighting,
    LossWeights,
)
from nestor_engine.objective import Batch, Bilevel, Tensors
from nestor_engine.problem.validation.checks import check
from tests.engine.cases import cross_entropy, whole

N, CLASSES = 20, 3
Y = torch.tensor([0] * 12 + [1] * 6 + [2] * 2)  # imbalanced
SOURCE = torch.arange(N) % 2 == 0


def pose(kinds: Any, train_loss: Callable[..., Any] = cross_entropy, **columns: Tensor) -> engine.Problem:
    torch.manual_seed(0)
    x = torch.randn(N, 5)
    model = nn.Linear(5, CLASSES)
    train = {"x": x, "y": Y, "source": SOURCE, **columns}
    val = {"x": x, "y": Y}
    return engine.Problem(model, kinds, train_loss, cross_entropy, train=train, val=val)


def losses_of(posed: engine.Problem) -> tuple[Bilevel, Batch, Tensor]:
    bilevel = posed.bilevel()
    batch = whole(posed.data.train)
    with torch.no_grad():
        return bilevel, batch, bilevel.forward(bilevel.params, {}, bilevel.values(bilevel.hparams), batch)[0]


def training_loss(posed: engine.Problem) -> Tensor:
    bilevel, batch, _ = losses_of(posed)
    return bilevel.train_loss(bilevel.params, {}, bilevel.hparams, batch)[0]


def random_values(kind: Hyperparameters) -> Hyperparameters:
    kind.init = {name: torch.randn_like(value) for name, value in kind.init.items()}
    return kind


# --- groups and classes -------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["softmax", "sigmoid"])
def test_class_weights_are_those_of_torch_on_the_whole_training_split(normalize: Any):
    posed = pose(random_values(ClassWeights(CLASSES, normalize=normalize)))
    bilevel, batch, outputs = losses_of(posed)
    relative = bilevel.values(bilevel.hparams)["class_weights"]
    torch.testing.assert_close(training_loss(posed), F.cross_entropy(outputs, batch["y"], weight=relative))


@pytest.mark.parametrize("normalize", ["softmax", "sigmoid"])
@pytest.mark.parametrize("column", ["y", "source"])
def test_the_mean_weight_of_a_training_example_is_one(normalize: Any, column: str):
    posed = pose(random_values(GroupWeights(column, CLASSES, normalize=normalize)))
    ones = torch.ones(N)
    kinds = posed.hparams.for_data(posed.data.train)
    weights = kinds.weigh(ones, kinds.values(kinds.init), whole(posed.data.train))
    assert weights.std() > 0.05
    torch.testing.assert_close(weights.mean(), torch.ones(()))


def test_weights_start_at_one_or_in_the_given_proportion():
    batch = whole({"y": Y})
    for normalize in ("softmax", "sigmoid"):
        kind = GroupWeights("y", CLASSES, normalize=normalize, init=[1.0, 2.0, 8.0]).for_data(batch)
        values = {"group_weights": torch.exp(kind.init["group_weights"])}
        if normalize == "sigmoid":
            values = {"group_weights": torch.sigmoid(kind.init["group_weights"])}
        weights = kind.weigh(torch.ones(N), values, batch)
        torch.testing.assert_close(weights / weights[0], torch.tensor([1.0, 2.0, 8.0])[Y])
    torch.testing.assert_close(
        training_loss(pose(ClassWeights(CLASSES))), training_loss(pose({"unread": torch.zeros(())})).mean()
    )


def test_weights_of_several_groups_multiply():
    kinds = [random_values(ClassWeights(CLASSES)), random_values(GroupWeights("source", 2))]
    bilevel, batch, outputs = losses_of(pose(kinds))
    values = bilevel.values(bilevel.hparams)
    by_class = values["class_weights"] / values["class_weights"][Y].mean()
    by_source = values["group_weights"] / values["group_weights"][SOURCE.long()].mean()
    expected = (cross_entropy(outputs, batch) * by_class[Y] * by_source[SOURCE.long()]).mean()
    torch.testing.assert_close(training_loss(pose(kinds)), expected)


def test_soft_labels_have_the_mean_weight_of_their_classes():
    soft = torch.rand(N, CLASSES).softmax(1)
    posed = pose(random_values(ClassWeights(CLASSES)), y=soft)
    bilevel, batch, outputs = losses_of(posed)
    relative = bilevel.values(bilevel.hparams)["class_weights"]
    each = soft @ relative / (soft.mean(0) @ relative)
    torch.testing.assert_close(training_loss(posed), (each * cross_entropy(outputs, batch)).mean())


def test_the_validation_loss_has_no_weights():
    plain, posed = (
        pose(kinds).bilevel() for kinds in ({"unread": torch.zeros(())}, [_tilted(), LabelSmoothing(CLASSES)])
    )
    batch = whole({"x": torch.randn(6, 5), "y": Y[-6:]})
    values = [b.val_loss_at(b.params, {}, b.values(b.hparams), batch) for b in (plain, posed)]
    assert torch.equal(values[0], values[1])


def _tilted() -> GroupWeights:
    return ClassWeights(CLASSES, init=[1.0, 5.0, 9.0])


def test_groups_may_be_tuned_with_folds():
    config = engine.Config(n_steps=3, inner=engine.SGD(0.1), inner_steps=2, folds=engine.Folds(2), batch_size=4)
    posed = pose([ClassWeights(CLASSES), LabelSmoothing(CLASSES)])
    assert not posed.hparams.by_position
    *_, last = engine.optimize(posed.bilevel(), engine.Data(posed.data.val, posed.data.val), config)
    assert set(last.state.hparams) == {"class_weights", "label_smoothing"}
    assert all(not torch.equal(value, posed.hparams.init[name]) for name, value in last.state.hparams.items())


def test_a_rare_class_gains_weight_when_validation_is_balanced():
    torch.manual_seed(1)
    y, yv = torch.tensor([0] * 90 + [1] * 10), torch.arange(100) % 2
    x, xv = (torch.randn(100, 2) + labels.unsqueeze(1) for labels in (y, yv))
    model = nn.Linear(2, 2)
    kinds = [ClassWeights(2), L2(model, per="global", init=-6.0)]
    posed = engine.Problem(model, kinds, cross_entropy, cross_entropy, train=(x, y), val=(xv, yv))
    config = engine.Config(n_steps=30, inner=engine.SGD(0.5), inner_steps=10, outer=engine.Adam(0.2))
    steps = list(engine.optimize(posed.bilevel(), posed.data, config))
    weights = steps[-1].state.hparams["class_weights"].exp()
    assert weights[1] / weights[0] > 3  # nine would balance them
    assert steps[-1].val_loss < steps[0].val_loss - 0.02


# --- smoothed labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_smoothing_is_that_of_torch(rate: float):
    posed = pose(LabelSmoothing(CLASSES, init=rate))
    _, batch, outputs = losses_of(posed)
    torch.testing.assert_close(training_loss(posed), F.cross_entropy(outputs, batch["y"], label_smoothing=rate))


def test_labels_of_pixels_are_smoothed_like_torch_smooths_them():
    y, outputs = torch.randint(0, CLASSES, (4, 3, 2)), torch.randn(4, CLASSES, 3, 2)
    for per in ("global", "class"):
        kind = LabelSmoothing(CLASSES, init=0.2, per=per)
        soft = kind.prepare({"label_smoothing": kind.init["label_smoothing"].sigmoid()}, {"y": y})["y"]
        assert soft.shape == outputs.shape
        torch.testing.assert_close(F.cross_entropy(outputs, soft), F.cross_entropy(outputs, y, label_smoothing=0.2))


def test_each_class_has_its_own_smoothing():
    kind = LabelSmoothing(CLASSES, per="class")
    rates = torch.tensor([0.0, 0.3, 0.6])
    soft = kind.prepare({"label_smoothing": rates}, {"y": torch.tensor([0, 2, 1])})["y"]
    expected = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]])
    torch.testing.assert_close(soft, expected)


def test_corrected_labels_are_smoothed_behind_their_correction():
    posed = pose([LabelCorrection(Y, CLASSES), LabelSmoothing(CLASSES, init=0.3)])
    bilevel, batch, _ = losses_of(posed)
    values = bilevel.values(bilevel.hparams)
    soft = bilevel.prepare(values, batch)["y"]
    torch.testing.assert_close(soft, 0.7 * values["label_correction"].softmax(1) + 0.1)


# --- tasks --------------------------------------------------------------------------------------------


def by_name(outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
    return {"size": outputs.square().mean(1), "labels": cross_entropy(outputs, batch)}


def means(outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
    return {name: loss.mean() for name, loss in by_name(outputs, batch).items()}


def mixed(outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
    return {**by_name(outputs, batch), "size": outputs.square().mean()}


def stacked(outputs: Tensor, batch: Batch) -> Tensor:
    losses = by_name(outputs, batch)
    return torch.stack([losses["labels"], losses["size"]], dim=-1)


def stacked_means(outputs: Tensor, batch: Batch) -> Tensor:
    return stacked(outputs, batch).mean(0)


TASKS: dict[str, tuple[Callable[..., Any], Any]] = {
    "by name": (by_name, ["labels", "size"]),
    "means": (means, ("labels", "size")),
    "one of them a mean": (mixed, ["labels", "size"]),
    "stacked": (stacked, 2),
    "stacked means": (stacked_means, 2),
    "stacked, with names": (stacked, ["labels", "size"]),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_losses_of_tasks_are_weighed_and_their_weights_have_the_mean_one(name: str):
    train_loss, tasks = TASKS[name]
    posed = pose(LossWeights(tasks, init=[1.0, 3.0]), train_loss)
    _, batch, outputs = losses_of(posed)
    losses = means(outputs, batch)
    torch.testing.assert_close(training_loss(posed), 0.5 * losses["labels"] + 1.5 * losses["size"])
    assert check(posed, ship=train_loss in (by_name, stacked)).findings == ()


def test_weights_of_tasks_and_of_examples_multiply():
    posed = pose([LossWeights(["labels", "size"]), ExampleWeights(N), ClassWeights(CLASSES)], by_name)
    _, batch, outputs = losses_of(posed)
    expected = torch.stack(list(by_name(outputs, batch).values())).sum(0).mean() / 2  # sigmoid(0)
    torch.testing.assert_close(training_loss(posed), expected)


# --- refusals -----------------------------------------------------------------------------------------

untyped: Any = {kind.__name__: kind for kind in (ClassWeights, GroupWeights, LabelSmoothing, LossWeights)}


def checked(*args: Any, **columns: Any) -> None:
    check(pose(*args, **columns), ship=False).raise_errors()


REFUSED: dict[str, tuple[Callable[[], object], type[NestorError], str]] = {
    "one group": (
        lambda: GroupWeights("y", 1),
        errors.OptionOutOfRange,
        "it must be at least 2",
    ),
    "half a class": (lambda: untyped["ClassWeights"](2.5), errors.ArgumentInvalid, "classes is 2.5"),
    "labels": (lambda: untyped["ClassWeights"](Y), errors.ArgumentInvalid, "Pass a whole number"),
    "swapped": (lambda: untyped["GroupWeights"](3, "y"), errors.ArgumentInvalid, "column is 3"),
    "an unknown form": (
        lambda: untyped["GroupWeights"]("y", 3, normalize="mean"),
        errors.ChoiceUnknown,
        "choose one of 'softmax', 'sigmoid'",
    ),
    "two initial weights": (lambda: ClassWeights(3, init=[1.0, 2.0]), errors.OptionOutOfRange, "3 positive numbers"),
    "no initial weight": (lambda: ClassWeights(2, init=[1.0, 0.0]), errors.OptionOutOfRange, "2 positive numbers"),
    "a text": (lambda: untyped["ClassWeights"](2, init="equal"), errors.OptionOutOfRange, "2 positive numbers"),
    "no such column": (lambda: checked(GroupWeights("site", 2)), errors.CheckFailed, "reads the column 'site'"),
    "numbers as groups": (lambda: checked(GroupWeights("x", 2)), errors.CheckFailed, "one integer for each example"),
    "too few groups": (
        lambda: checked(ClassWeights(2)),
        errors.CheckFailed,
        "'y' runs from 0 to 2, but there are 2 groups",
    ),
    "from one": (lambda: checked(GroupWeights("z", 3), z=Y + 1), errors.CheckFailed, "Number the groups from 0"),
    "a mean": (
        lambda: checked(ClassWeights(3), lambda out, batch: F.cross_entropy(out, batch["y"])),
        errors.CheckFailed,
        "reduction='none'",
    ),
    "no smoothing": (lambda: LabelSmoothing(3, init=0.0), errors.OptionOutOfRange, "above 0 and below 1"),
    "a logit": (lambda: LabelSmoothing(3, init=-2.2), errors.OptionOutOfRange, "0.1 is usual"),
    "labels to smooth": (
        lambda: untyped["LabelSmoothing"](Y),
        errors.ArgumentInvalid,
        "Pass a whole number",
    ),
    "per example": (lambda: untyped["LabelSmoothing"](3, per="example"), errors.ChoiceUnknown, "'global', 'class'"),
    "labels beyond": (lambda: checked(LabelSmoothing(2)), errors.CheckFailed, "run from 0 to 2"),
    "ignored labels": (lambda: checked(LabelSmoothing(3), y=Y - 1), errors.CheckFailed, "run from -1 to 1"),
    "measurements": (lambda: checked(LabelSmoothing(3), y=Y.float()), errors.CheckFailed, r"with \.long\(\)"),
    "one task": (lambda: LossWeights(["a"]), errors.ArgumentInvalid, "at least two tasks"),
    "a task": (lambda: untyped["LossWeights"]("ab"), errors.ArgumentInvalid, "at least two tasks"),
    "a task twice": (lambda: LossWeights(["a", "a"]), errors.ArgumentInvalid, "at least two tasks"),
    "no tasks": (lambda: untyped["LossWeights"](None), errors.ArgumentInvalid, "tasks is None"),
    "weights of tasks twice": (
        lambda: pose([LossWeights(["a", "b"]), LossWeights(2)]),
        errors.TaskWeightsTwice,
        "LossWeights occurs twice",
    ),
    "one loss": (lambda: checked(LossWeights(2)), errors.CheckFailed, r"torch\.stack"),
    "another task": (
        lambda: checked(LossWeights(["labels", "depth"]), by_name),
        errors.CheckFailed,
        "losses for 'size', 'labels'.*keys 'labels', 'depth'",
    ),
    "examples first": (
        lambda: checked(LossWeights(2), lambda out, batch: stacked(out, batch).T),
        errors.CheckFailed,
        r"a tensor of shape \(2, \d+\)",
    ),
    "a list": (
        lambda: checked(LossWeights(2), lambda out, batch: list(by_name(out, batch).values())),
        errors.CheckFailed,
        "returned a list",
    ),
    "a number for a task": (
        lambda: checked(LossWeights(["size", "labels"]), lambda out, batch: {**by_name(out, batch), "size": 0.5}),
        errors.CheckFailed,
        "for 'size' float",
    ),
    "a loss for each pixel": (
        lambda: checked(LossWeights(["size", "labels"]), lambda out, batch: {**by_name(out, batch), "size": out}),
        errors.CheckFailed,
        r"for 'size' shape",
    ),
    "tasks without weights": (
        lambda: checked({"unread": torch.zeros(())}, by_name),
        errors.CheckFailed,
        "tune the weights of several losses with LossWeights",
    ),
    "means of tasks with weights of examples": (
        lambda: checked([LossWeights(["size", "labels"]), ExampleWeights(N)], mixed),
        errors.CheckFailed,
        "one loss per example",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_with_a_remedy(name: str):
    make, kind, sentence = REFUSED[name]
    with pytest.raises(kind, match=sentence):
        make()


HINTS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "class weights": (lambda o, b, h: F.cross_entropy(o, b["y"], weight=h["w"]), r"ClassWeights\(classes\)"),
    "class weights of a module": (lambda o, b, h: nn.CrossEntropyLoss(weight=h["w"])(o, b["y"]), "ClassWeights"),
    "weights of log probabilities": (
        lambda o, b, h: F.nll_loss(o.log_softmax(1), b["y"], weight=h["w"]),
        "ClassWeights",
    ),
    "smoothing": (lambda o, b, h: F.cross_entropy(o, b["y"], label_smoothing=h["s"]), r"LabelSmoothing\(classes\)"),
    "smoothing of a module": (lambda o, b, h: nn.CrossEntropyLoss(label_smoothing=h["s"])(o, b["y"]), "LabelSmoothing"),
    "dropout": (lambda o, b, h: F.cross_entropy(F.dropout(o, h["s"]), b["y"]), r"Dropout\(model\)"),
    "weights of binary losses": (
        lambda o, b, h: F.binary_cross_entropy_with_logits(o, F.one_hot(b["y"], 3).float(), weight=h["w"]),
        "multiply the losses",
    ),
    "weights of positives": (
        lambda o, b, h: F.binary_cross_entropy_with_logits(o, F.one_hot(b["y"], 3).float(), pos_weight=h["w"]),
        "logsigmoid",
    ),
    "a width": (lambda o, b, h: F.huber_loss(o[:, 0], b["y"].float(), delta=h["s"]), "as a Python number"),
}


@pytest.mark.parametrize("name", HINTS)
def test_an_argument_of_torch_without_a_gradient_names_what_to_use_instead(name: str):
    loss, hint = HINTS[name]
    hparams = {"w": torch.ones(CLASSES), "s": torch.tensor(0.1)}
    with pytest.raises(errors.CheckFailed, match=hint):
        checked(hparams, loss)


# --- scores of new examples ---------------------------------------------------------------------------


@pytest.mark.parametrize("reads", ["x", "loss"])
def test_a_rater_gives_new_examples_the_weights_that_were_learned(reads: str):
    network = nn.Sequential(nn.Linear(5 if reads == "x" else 1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).eval()
    kind = LossReweighting(network, reads=reads, positive="softplus")
    tuned: Tensors = {name: value + 0.1 for name, value in kind.init.items()}
    rater = kind.rater(tuned)
    losses, x = torch.rand(7), torch.randn(7, 5)
    expected = kind.weigh(torch.ones(7) if reads == "x" else losses, tuned, {"x": x})
    scores = rater(x) if reads == "x" else rater(losses.unsqueeze(1)) * losses
    torch.testing.assert_close(scores, expected)
    assert scores.shape == (7,)
    assert {name for name, _ in rater.named_parameters()} == {
        f"network.{name}" for name, _ in network.named_parameters()
    }
    fresh = kind.rater(kind.init)
    fresh.load_state_dict(rater.state_dict())  # it is an ordinary module
    shown = torch.randn(3, 5 if reads == "x" else 1)
    torch.testing.assert_close(fresh(shown), rater(shown))


def test_a_rater_needs_the_tensors_of_its_kind():
    kind = LossReweighting(nn.Linear(5, 1))
    with pytest.raises(errors.HparamNotFound, match="loss_reweighting"):
        kind.rater({"l2": torch.zeros(())})
