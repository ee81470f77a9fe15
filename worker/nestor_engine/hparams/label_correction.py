"""A soft label for every training example."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from nestor.errors import ColumnUnusable, LabelsOutOfRange
from nestor.program_format import EntryNames
from nestor_engine.data.splits import INDEX
from nestor_engine.hparams.arguments import at_least, tensor
from nestor_engine.hparams.examples import column_of, validate_examples
from nestor_engine.hparams.hyperparameters import Hyperparameters
from nestor_engine.objective import Batch, Tensors


class LabelCorrection(Hyperparameters):
    """A soft label for every training example: the label column becomes softmax(λ_i), shape (B, classes).

    The training loss must take class probabilities as its target, as `F.cross_entropy` does; the
    validation loss sees the original labels. The tensor has shape (n, classes) and holds logits.

    Args:
        labels: the given labels, integers, shape (n,); the corrections start from them.
        classes: the number of classes.
        strength: initial logit of the given label, the others being zero. A label starts with probability
            1 / (1 + (classes − 1) exp(−strength)); the larger it is, the slower a label moves.
        column: the label column.
        dtype: of the logits; torch's default. It must be that of the model's outputs.

    Raises:
        ProblemInvalid: the labels are not one integer in [0, classes) for each example.
    """

    by_position = True

    def __init__(
        self,
        labels: Any,
        classes: int,
        *,
        strength: float = 4.0,
        column: str = "y",
        dtype: torch.dtype | None = None,
        name: str | None = None,
    ) -> None:
        labels = tensor("LabelCorrection", "labels", labels)
        at_least(1, "LabelCorrection", "classes", classes)
        if labels.is_floating_point() or labels.dtype == torch.bool or labels.ndim != 1 or not len(labels):
            raise ColumnUnusable(
                kind="LabelCorrection",
                expected="one integer label for each example, shape (n,)",
                dtype=labels.dtype,
                shape=tuple(labels.shape),
                advice="For probabilities, pass labels.argmax(1).",
            )
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise LabelsOutOfRange(
                kind="LabelCorrection", classes=classes, low=int(labels.min()), high=int(labels.max())
            )
        self._n, self._column, self._name = len(labels), column, self._named(name, "label_correction")
        self.init = {self._name: strength * F.one_hot(labels.long(), classes).to(dtype or torch.get_default_dtype())}
        self.transforms = {}
        self.entry_names = {self._name: EntryNames(axes=("example", "class"))}
        if 0 < strength < 1:
            given = 1 / (1 + (classes - 1) * math.exp(-strength))
            meant = math.log(strength * (classes - 1) / (1 - strength)) if classes > 1 else math.inf
            self.remarks = (
                f"LabelCorrection(strength={strength:g}) gives each label the probability {given:.3g} at the start, "
                f"because it is a logit. If the probability {strength:g} was meant, pass {meant:.6g}.",
            )

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check the label column and the number of training examples.

        Raises:
            ProblemInvalid: there is no such column, or there is another number of examples.
        """
        column_of("LabelCorrection", self._column, train)
        validate_examples("LabelCorrection", self._n, train)

    def prepare(self, values: Tensors, batch: Batch) -> Batch:
        """The batch with class probabilities as its label column, shape (B, classes)."""
        return batch | {self._column: values[self._name][batch[INDEX]].softmax(1)}
