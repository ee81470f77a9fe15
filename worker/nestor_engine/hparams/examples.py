"""What kinds with one entry for each training example share: entry i belongs to the example of index i."""

from __future__ import annotations

from torch import Tensor

from nestor_engine.data.splits import size_of
from nestor_engine.errors import ProblemInvalid
from nestor_engine.objective import Tensors


def validate_examples(kind: str, n: int, train: Tensors) -> None:
    """
    Raises:
        ProblemInvalid: the training split has another number of examples.
    """
    if size_of(train) != n:
        raise ProblemInvalid(
            reason=f"{kind} was made for {n:,} training examples, but the training split has {size_of(train):,}. "
            "Give it one entry for each of them."
        )


def column_of(kind: str, name: str, train: Tensors) -> Tensor:
    """The training column that a kind reads.

    Raises:
        ProblemInvalid: there is none of that name.
    """
    if name not in train:
        raise ProblemInvalid(
            reason=f"{kind} reads the column {name!r}, but the training split has {sorted(train)}. "
            "Name one of them with column=…."
        )
    return train[name]
