"""Checks of kinds with one entry for each training example; entry i belongs to the example with index i."""

from __future__ import annotations

from torch import Tensor

from nestor.errors import ColumnNotFound, ExampleCountDiffers
from nestor_engine.data.splits import size_of
from nestor_engine.objective import Tensors


def validate_examples(kind: str, n: int, train: Tensors) -> None:
    """Check that the training split has `n` examples. `kind` is for the message.

    Raises:
        ProblemInvalid: the training split has another number of examples.
    """
    if size_of(train) != n:
        raise ExampleCountDiffers(kind=kind, expected=n, n=size_of(train))


def column_of(kind: str, name: str, train: Tensors) -> Tensor:
    """The training column that a kind of hyperparameters reads.

    Raises:
        ProblemInvalid: no column has this name.
    """
    if name not in train:
        raise ColumnNotFound(reader=kind, column=name, split="training", columns=sorted(train), argument="column")
    return train[name]
