"""Training data from several sources, and several losses of one network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.usefulness.common import CLASSIFICATION, DECAY, accuracy, cross_entropy, divided, perceptron, seeded
from benchmarks.usefulness.data import CLASSES, digits
from benchmarks.usefulness.task import Columns, Knob, Objective, Splits, Task
from nestor_engine.hparams import L2, GroupWeights, Hyperparameters, LossWeights

PIXELS = 64

# --- sources --------------------------------------------------------------------------------------

SOURCES = 8  # source 0 is trusted: the validation and test examples are of it
OF_EACH = 100  # training examples
N_VAL = 60
RANDOM_LABELS, NEXT_LABELS, NOISE = 5, 6, 7  # the bad sources; the others are as good as source 0


def sources(seed: int) -> Splits:
    generator = seeded(seed)
    columns = digits() | {"source": torch.zeros_like(digits()["y"])}
    clean = divided(columns, (SOURCES * OF_EACH, N_VAL), generator)
    x, y = clean.train["x"], clean.train["y"]
    source = torch.arange(SOURCES).repeat_interleave(OF_EACH)
    y = torch.where(source == RANDOM_LABELS, torch.randint(CLASSES, y.shape, generator=generator), y)
    y = torch.where(source == NEXT_LABELS, (y + 1) % CLASSES, y)
    x = torch.where((source == NOISE).view(-1, 1, 1, 1), torch.rand(x.shape, generator=generator), x)
    return clean.training_on({"x": x, "y": y, "source": source})


def of_each_source(model: nn.Module, splits: Splits) -> Sequence[Hyperparameters]:
    """A weight for each source, and a decay for each tensor."""
    del splits
    return [GroupWeights("source", SOURCES), L2(model, per="tensor")]


# --- losses ---------------------------------------------------------------------------------------

LOSSES = ("digit", "image", "unrelated")


def with_further_targets(seed: int) -> Splits:
    """Digits, each with another label that says nothing."""
    generator = seeded(seed)
    columns = digits()
    unrelated = torch.randint(CLASSES, columns["y"].shape, generator=generator)
    return divided(columns | {"unrelated": unrelated}, (100, 100), generator)


def losses(outputs: Tensor, batch: Columns) -> dict[str, Tensor]:
    """Of the label, of the reconstructed image, and of the label that says nothing."""
    label, unrelated, image = outputs.split([CLASSES, CLASSES, PIXELS], 1)
    return {
        "digit": cross_entropy(label, batch),
        "image": F.mse_loss(image, batch["x"].flatten(1), reduction="none").sum(1),
        "unrelated": F.cross_entropy(unrelated, batch["unrelated"], reduction="none"),
    }


def digit_loss(outputs: Tensor, batch: Columns) -> Tensor:
    return cross_entropy(outputs[:, :CLASSES], batch)


def digit_accuracy(outputs: Tensor, batch: Columns) -> Tensor:
    return accuracy(outputs[:, :CLASSES], batch)


def of_each_loss(model: nn.Module, splits: Splits) -> Sequence[Hyperparameters]:
    """A weight for each loss, and a decay for each tensor."""
    del splits
    return [LossWeights(LOSSES), L2(model, per="tensor")]


AUXILIARY = Knob(
    "auxiliary weight", 1e-2, 1.0, 1.0, lambda model, splits, value: LossWeights(LOSSES, init=(1.0, value, value))
)

TASKS = (
    Task(
        "digits of eight sources, three of them bad",
        sources,
        lambda: perceptron(PIXELS, 128, outputs=CLASSES),
        of_each_source,
        CLASSIFICATION,
        (DECAY,),
        also=frozenset({"cleanlab"}),
        held_out=True,
    ),
    Task(
        "digits with two auxiliary losses",
        with_further_targets,
        lambda: perceptron(PIXELS, 128, outputs=2 * CLASSES + PIXELS),
        of_each_loss,
        Objective(losses, digit_loss, digit_accuracy),
        (DECAY, AUXILIARY),
        held_out=True,
    ),
)
