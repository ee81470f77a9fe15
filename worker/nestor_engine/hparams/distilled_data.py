"""Training data as hyperparameters."""

# pyright: reportUnknownMemberType=false
# (torch does not type Tensor.unique)

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from nestor.errors import ColumnUnusable, TooFewExamples
from nestor.program_format import EntryNames
from nestor_engine.data.splits import INDEX
from nestor_engine.hparams.arguments import at_least, checked, tensor
from nestor_engine.hparams.axes import axes_of_examples
from nestor_engine.hparams.examples import column_of, validate_examples
from nestor_engine.hparams.hyperparameters import Hyperparameters
from nestor_engine.objective import Batch, Tensors


class DistilledData(Hyperparameters):
    """Dataset distillation [1, 2]: every number of a training column is a hyperparameter.

    The training split is the distilled set, with few examples; the validation split is the data that it
    represents. Labels are constant; with `LabelCorrection` they are learned, too.

    Args:
        x: the column's initial values, floating-point, one row for each training example.
        column: the column that `x` replaces.

    Raises:
        ProblemInvalid: `x` is not floating-point.

    [1] Wang et al. (2018), Dataset distillation.
    [2] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """

    by_position = True

    def __init__(self, x: Any, *, column: str = "x", name: str | None = None) -> None:
        x = tensor("DistilledData", "x", x)
        _expect_examples("DistilledData", x)
        self._column, self._name = column, self._named(name, "distilled_data")
        self.init = {self._name: x.clone()}
        self.transforms = {}
        self.entry_names = {self._name: EntryNames(axes=axes_of_examples(x.ndim))}

    @staticmethod
    @checked("DistilledData.start")
    def start(
        x: Tensor,
        y: Tensor,
        *,
        per_class: int = 1,
        kind: Literal["noise", "examples", "means"] = "noise",
        seed: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Initial values of a distilled training split, balanced over the classes of `y`.

        Args:
            x: examples to represent, shape (n, …).
            y: their integer labels, shape (n,).
            per_class: distilled examples in each class.
            kind: normal noise with the mean and deviation of the data, random examples, or the means of
                `per_class` random parts of each class.

        Returns:
            x0 of shape (classes × per_class, …) and y0, sorted by class.

        Raises:
            ProblemInvalid: a class has fewer than `per_class` examples, or `kind` is unknown.
        """
        at_least(1, "DistilledData.start", "per_class", per_class)
        _expect_examples("DistilledData.start", x)
        if y.is_floating_point() or y.is_complex() or y.shape != x.shape[:1]:
            raise ColumnUnusable(
                kind="DistilledData.start",
                expected=f"one integer label for each of the {len(x)} examples",
                dtype=y.dtype,
                shape=tuple(y.shape),
                advice="Pass the labels of these examples.",
            )
        generator = torch.Generator().manual_seed(seed)
        labels, counts = cast("tuple[Tensor, Tensor]", y.unique(return_counts=True))
        if kind != "noise" and int(counts.min()) < per_class:
            raise TooFewExamples(
                option=f"DistilledData.start({per_class=}, {kind=})",
                needed=per_class,
                what=f"examples of class {int(labels[counts.argmin()])}",
                n=int(counts.min()),
            )
        y0 = labels.repeat_interleave(per_class)
        if kind == "noise":
            noise = torch.randn((len(y0), *x.shape[1:]), generator=generator, dtype=x.dtype, device="cpu")
            return x.mean() + x.std() * noise.to(x.device), y0
        chosen: list[Tensor] = []
        for label in labels:
            rows = (y == label).nonzero().squeeze(1)
            rows = rows[torch.randperm(len(rows), generator=generator, device="cpu").to(rows.device)]
            parts = rows.tensor_split(per_class) if kind == "means" else torch.split(rows[:per_class], 1)
            chosen += [x[part].mean(0) for part in parts]
        return torch.stack(chosen), y0

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check that the column has the shape and dtype of the distilled examples.

        Raises:
            ProblemInvalid: it does not, or there is no such column.
        """
        initial, column = self.init[self._name], column_of("DistilledData", self._column, train)
        validate_examples("DistilledData", len(initial), train)
        if column.shape != initial.shape or column.dtype != initial.dtype:
            raise ColumnUnusable(
                kind="DistilledData",
                column=self._column,
                expected=f"{column.dtype} of shape {tuple(column.shape)}, as the column {self._column!r} is",
                dtype=initial.dtype,
                shape=tuple(initial.shape),
                advice="Pass the same tensor to both: DistilledData(x0) with train=(x0, y0).",
            )

    def prepare(self, values: Tensors, batch: Batch) -> Batch:
        """The batch with the distilled examples as its column."""
        return batch | {self._column: values[self._name][batch[INDEX]]}


def _expect_examples(kind: str, x: Tensor) -> None:
    if not x.is_floating_point() or not x.ndim or not len(x):
        raise ColumnUnusable(
            kind=kind,
            expected="floating-point examples of shape (n, …)",
            dtype=x.dtype,
            shape=tuple(x.shape),
            advice="Distill what has a gradient; tokens have none.",
        )
