from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestor.errors import ProblemInvalid
from nestor_engine import Config, Problem
from nestor_engine.hparams import (
    L2,
    Augmentation,
    Custom,
    DistilledData,
    Dropout,
    ExampleWeights,
    InitializationScale,
    LabelCorrection,
    LossReweighting,
)
from nestor_engine.problem.validation.checks import Report, check
from tests.engine.program.problems import CLASSES, PROBLEMS, N, classes, cross_entropy, features


def problem(model: nn.Module | None = None, **changes: Any) -> Problem:
    """A valid problem, except for the given changes."""
    model = model or nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    given: dict[str, Any] = {
        "hparams": L2(model),
        "train_loss": cross_entropy,
        "val_loss": cross_entropy,
        "train": (features(6), classes()),
        "val": (features(6, seed=1), classes(1)),
    }
    return Problem(model, **(given | changes))


def messages(report: Report) -> str:
    assert not report.ok
    assert all(len(str(finding)) < 600 for finding in report.findings)
    return str(report)


@pytest.mark.parametrize("name", ["mlp", "augmentation"])
def test_valid_problems_pass(name: str):
    problem = PROBLEMS[name]()
    report = check(problem)
    assert report.findings == ()
    assert str(report) == "The problem is in order."


def test_all_findings_come_at_once_and_as_one_error():
    x = features(6)
    x[3, 2] = float("nan")
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, CLASSES).double())
    report = check(problem(model, train=(x, classes())))
    assert "train data: The column 'x' holds NaN or infinity, first in example 3" in messages(report)
    assert "Its parameters are torch.float32 and torch.float64" in messages(report)
    with pytest.raises(ProblemInvalid, match=r"first in example 3.*\n.*float64"):
        report.raise_errors()


def test_labels_beyond_the_classes_are_named():
    y = classes()
    y[17] = 9
    text = messages(check(problem(train=(features(6), y))))
    assert "Target 9 is out of bounds" in text
    assert "'y' runs from 0 to 9 and the model returns 4 classes" in text


def test_a_shape_that_does_not_fit_is_reported_with_the_shapes():
    text = messages(check(problem(train=(features(5), classes()))))
    assert "model, in training mode (in '0' (Linear)" in text
    assert "x: (9, 5) float32" in text


def test_targets_of_the_wrong_type_are_reported_for_both_losses():
    text = messages(check(problem(train=(features(6), classes().int()), val=(features(6), classes().int()))))
    assert "train_loss" in text
    assert "val_loss" in text
    assert "y: (9,) int32" in text


def test_double_precision_data_for_a_single_precision_model():
    text = messages(check(problem(train=(features(6).double(), classes()))))
    assert "The column 'x' is torch.float64, the model's parameters are torch.float32" in text


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out, batch: cross_entropy(out, batch).item(), "It returned a float."),
        (lambda out, batch: F.one_hot(batch["y"], CLASSES) - out, "It returned shape (9, 4) for a batch of 9"),
        (lambda out, batch: cross_entropy(out, batch) * float("nan"), "NaN or infinite"),
        (lambda out, batch: out.argmax(1) == batch["y"], "It returned a torch.bool tensor"),
    ],
    ids=["number", "matrix", "nan", "boolean"],
)
@pytest.mark.parametrize("which", ["train_loss", "val_loss"])
def test_a_loss_must_be_a_finite_number_or_one_for_each_example(which: str, loss: Any, message: str):
    text = messages(check(problem(**{which: loss})))
    assert f"{which}: " in text
    assert message in text


def test_example_weights_for_fewer_examples_than_there_are():
    text = messages(check(problem(hparams=ExampleWeights(N - 4))))
    assert "ExampleWeights was made for 20 training examples, but the training split has 24" in text


def test_decays_of_another_model():
    text = messages(check(problem(hparams=L2(nn.Linear(6, CLASSES)))))
    assert "L2 was made for another model than the problem's" in text


def test_example_weights_with_a_loss_that_is_a_mean_already():
    assert "Weights per example need one loss per example" in messages(check(problem(hparams=ExampleWeights(N))))


def test_a_hyperparameter_without_effect_is_named():
    hparams = Custom({"used": torch.zeros(()), "forgotten": torch.zeros(())})

    def loss(out, batch, values):
        return cross_entropy(out, batch) * values["used"].exp() + values["forgotten"]

    text = messages(check(problem(hparams=hparams, train_loss=loss)))
    assert "hyperparameter 'forgotten': It does not change the training loss's gradient" in text
    assert "'used'" not in text


def test_a_hyperparameter_of_the_validation_loss_alone_is_valid():
    hparams = Custom({"temperature": torch.zeros(())})

    def loss(out, batch, values):
        return cross_entropy(out * values["temperature"].exp(), batch)

    assert check(problem(hparams=hparams, val_loss=loss), ship=False).ok


class Joined(nn.Module):
    """(x, ε) → a layer of both."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x, noise):
        return self.layers(torch.cat([x, noise], 1))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (LabelCorrection(classes()[:-4], CLASSES), "made for 20 training examples, but the training split has 24"),
        (LabelCorrection(classes(), CLASSES, column="label"), "reads the column 'label', but the training split has"),
        (DistilledData(features(5)), "takes torch.float32 of shape (24, 6), as the column 'x' is, not torch.float32"),
        (
            Augmentation(channels=1),
            "takes images of shape (n, 1, H, W) in the column 'x', not torch.float32 of shape (24, 6)",
        ),
        (Augmentation(Joined(nn.Linear(7, 5))), "turned shape (9, 6) into (9, 5)"),
        (Augmentation(Joined(nn.Linear(7, 6), nn.BatchNorm1d(6))), "Use GroupNorm"),
        (LossReweighting(nn.Linear(6, 1), reads="z"), "reads the column 'z'"),
        (LossReweighting(nn.Linear(6, 2)), "turned shape (9, 6) into (9, 2). It must return one number"),
        (Dropout(nn.Sequential(nn.Dropout(0.1), nn.Linear(6, CLASSES))), "made for another model"),
        (InitializationScale(nn.Linear(6, CLASSES)), "made for another model"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_kind_that_does_not_fit_the_problem(kind: Any, message: str):
    losses = lambda out, batch: F.cross_entropy(out, batch["y"], reduction="none")
    assert message in messages(check(problem(hparams=kind, train_loss=losses), ship=False))


def test_a_loss_that_takes_no_class_probabilities():
    hparams = LabelCorrection(classes(), CLASSES)
    loss = lambda out, batch: F.nll_loss(out.log_softmax(1), batch["y"])
    text = messages(check(problem(hparams=hparams, train_loss=loss)))
    assert "turned its column 'y' from (9,) int64 into (9, 4) float32" in text
    assert "F.cross_entropy takes them" in text


def test_the_scale_of_initial_weights_is_a_warning():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    (finding,) = check(problem(model, hparams=InitializationScale(model)), ship=False).findings
    assert finding.severity == "warning"
    assert "changes only the initial weights" in finding.sentence


def test_layers_behind_one_that_starts_at_zero_are_no_finding():
    images, model = features(1, 4, 4), nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    data = images, classes()
    assert check(problem(model, hparams=Augmentation(channels=1), train=data, val=data), ship=False).findings == ()


def test_dropout_inside_of_a_recurrent_layer_is_a_warning():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRU(6, 5, num_layers=2, dropout=0.4, batch_first=True)
            self.dropout, self.head = nn.Dropout(0.2), nn.Linear(5, CLASSES)

        def forward(self, x):
            return self.head(self.dropout(self.cell(x)[0][:, -1]))

    model, data = Recurrent(), (features(3, 6), classes())
    (finding,) = check(problem(model, hparams=Dropout(model), train=data, val=data), ship=False).findings
    assert finding.severity == "warning"
    assert "does not tune the dropout=0.4 inside of 'cell' (GRU)" in finding.sentence


def test_a_parameter_without_effect_is_a_warning():
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(6, CLASSES), nn.Linear(6, CLASSES)

        def forward(self, x):
            return self.used(x)

    report = check(problem(Partly(), hparams=Custom({"scale": torch.ones(())}), train_loss=scaled), ship=False)
    assert report.ok
    assert [finding.where for finding in report.findings] == ["parameter 'spare.weight'", "parameter 'spare.bias'"]


def scaled(out, batch, values):
    return cross_entropy(out, batch) * values["scale"]


def test_a_training_loss_without_gradient():
    def loss(out, batch):
        return cross_entropy(out.detach(), batch)

    text = messages(check(problem(train_loss=loss, hparams=Custom({"a": torch.ones(())}))))
    assert "No parameter reaches it" in text


def test_randomness_outside_of_torch():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, CLASSES)

        def forward(self, x):
            return self.linear(x) * random.random()

    assert "it draws random numbers outside of torch" in messages(check(problem(Noisy())))


def test_a_model_that_writes_into_the_data():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, CLASSES))
    assert "It writes into its input 'x'" in messages(check(problem(model)))


def test_batch_norm_with_a_batch_of_one():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    assert check(problem(model), ship=False).ok
    assert "BatchNorm cannot train on a batch of one" in messages(
        check(problem(model), config=Config(n_steps=1, batch_size=1))
    )


def test_infinite_initial_hyperparameters():
    assert "hyperparameter: 'l2' holds NaN" in messages(
        check(problem(hparams=Custom({"l2": torch.tensor(float("inf"))})))
    )


def test_test_data_with_other_columns():
    text = messages(check(problem(test={"x": features(6), "label": classes()})))
    assert "test data: Its columns are ['label', 'x'], those of the validation data ['x', 'y']" in text


def test_a_validation_loss_that_is_no_mean_over_examples_is_a_warning():
    y = classes(1)
    y[:5] = -100
    val = features(6, seed=1), y
    sums = lambda out, batch: (F.cross_entropy(out, batch["y"], reduction="sum"), (batch["y"] != -100).sum())
    means = lambda out, batch: (cross_entropy(out, batch), (batch["y"] != -100).sum())
    given: dict[str, Any] = {"val": val, "train": (features(6), classes())}
    assert "val_loss: It is not a mean over examples" in str(check(problem(**given), ship=False))
    assert check(problem(**given, val_loss=sums), ship=False).findings == ()
    assert "val_loss: It returns (sum, weight), and its sum on a batch" in str(
        check(problem(**given, val_loss=means), ship=False)
    )


def test_a_metric_outside_of_torch_can_be_used_here_and_not_be_sent():
    right = lambda out, batch: (out.argmax(1).numpy() == batch["y"].numpy()).mean()
    stated = problem(metrics={"right": right})
    assert check(stated, ship=False).ok
    text = messages(check(stated))
    assert "The metric 'right' cannot be exported" in text
    assert "server=None" in text


def test_what_cannot_be_exported_is_an_error_only_when_it_must_be_shipped():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, CLASSES)

        def forward(self, x):
            out = self.linear(x)
            return out if out.mean() > 0 else -out

    assert check(problem(Branching()), ship=False).ok
    assert "export: The model cannot be exported (in Branching, test_check.py, line" in messages(
        check(problem(Branching()))
    )


BY_POSITION: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "weights": lambda x, y: ExampleWeights(len(x)),
    "labels": lambda x, y: LabelCorrection(y, CLASSES),
    "data": lambda x, y: DistilledData(x),
}


@pytest.mark.parametrize("n", range(1, 13))
@pytest.mark.parametrize("kind", BY_POSITION)
def test_few_training_examples_with_entries_of_their_own_are_in_order(kind: str, n: int):
    """The check takes some examples twice if there are few, and numbered them beyond the entries."""
    x, y = features(6)[:n], torch.arange(n) % CLASSES
    losses = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")
    given: dict[str, Any] = {"train": (x, y), "hparams": BY_POSITION[kind](x, y), "train_loss": losses}
    report = check(problem(**given, val=(features(6, seed=1)[:n], y)), ship=False)
    assert report.ok, str(report)
