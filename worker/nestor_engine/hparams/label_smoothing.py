"""Smoothed labels, with the strength of the smoothing as a hyperparameter."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from nestor.errors import ColumnUnusable, LabelsOutOfRange, OptionOutOfRange
from nestor.program_format import EntryNames
from nestor_engine.data.mapped import extremes
from nestor_engine.hparams.arguments import at_least
from nestor_engine.hparams.examples import column_of
from nestor_engine.hparams.hyperparameters import Hyperparameters
from nestor_engine.objective import Batch, Tensors


class LabelSmoothing(Hyperparameters):
    """Label smoothing [1]: what a fixed `F.cross_entropy(…, label_smoothing=ε)` does, tuned.

    In training, the label column becomes class probabilities: (1 − ε) for the label, plus ε / classes for every class.
    Labels of shape (B, …) become probabilities of shape (B, classes, …), as `F.cross_entropy` takes them; the training
    loss must accept these. Soft labels of shape (B, classes), such as those of `LabelCorrection`, are smoothed, too.
    The validation loss sees the original labels.

    Named `label_smoothing`, of shape () or (classes,); ε is its sigmoid.

    Args:
        classes: the number of classes.
        init: the initial ε, between 0 and 1.
        per: one ε for all labels, or one for each class.
        column: the label column: integers, or probabilities of shape (n, classes).
        dtype: of the probabilities; torch's default. It must be that of the model's outputs.

    Raises:
        ProblemInvalid: the labels are not integers in [0, classes).

    [1] Szegedy et al. (2016), Rethinking the Inception architecture for computer vision.
    """

    init_shown = None  # `init` is a probability

    def __init__(
        self,
        classes: int,
        *,
        init: float = 0.1,
        per: Literal["global", "class"] = "global",
        column: str = "y",
        dtype: torch.dtype | None = None,
        name: str | None = None,
    ) -> None:
        at_least(2, "LabelSmoothing", "classes", classes)
        if not 0 < init < 1:
            raise OptionOutOfRange(
                option=f"LabelSmoothing({init=})", rule="it must be above 0 and below 1; 0.1 is usual"
            )
        self._classes, self._per, self._column = classes, per, column
        self._name = self._named(name, "label_smoothing")
        shape = () if per == "global" else (classes,)
        self.init = {
            self._name: torch.full(shape, math.log(init / (1 - init)), dtype=dtype or torch.get_default_dtype())
        }
        self.transforms = {self._name: "sigmoid"}
        self.entry_names = {self._name: EntryNames(axes=() if per == "global" else ("class",))}

    def _options(self) -> list[str]:
        return [f"per={self._per!r}", f"column={self._column!r}"]

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check the label column.

        Raises:
            ProblemInvalid: there is no such column, or it holds something else than labels.
        """
        labels = column_of("LabelSmoothing", self._column, train)
        if labels.is_floating_point() and labels.ndim == 2 and labels.shape[1] == self._classes:
            return
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ColumnUnusable(
                kind="LabelSmoothing",
                column=self._column,
                expected=f"integer labels in the column {self._column!r}, or probabilities of shape "
                f"(n, {self._classes})",
                dtype=labels.dtype,
                shape=tuple(labels.shape),
                advice="Convert labels with .long().",
            )
        low, high = extremes(labels)
        if low < 0 or high >= self._classes:
            raise LabelsOutOfRange(kind="LabelSmoothing", classes=self._classes, low=low, high=high)

    def prepare(self, values: Tensors, batch: Batch) -> Batch:
        """The batch with smoothed class probabilities as its label column, shape (B, classes, …)."""
        labels, rate = batch[self._column], values[self._name]
        return batch | {self._column: self._smoothed(labels, rate)}

    def _smoothed(self, labels: Tensor, rate: Tensor) -> Tensor:
        if labels.is_floating_point():
            given = labels
        else:
            classes = torch.arange(self._classes, device=labels.device)
            given = (labels.unsqueeze(-1) == classes).to(rate.dtype).movedim(-1, 1)
        if self._per == "class":  # that of the label; of soft labels, the mean
            rate = (given * rate.view(-1, *(1 for _ in given.shape[2:]))).sum(1, keepdim=True)
        return (1 - rate) * given + rate / self._classes
