"""Single entries of hyperparameters: those that stand out at a step, and the course of some of them."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from nestor.options.base import Number, about
from nestor.schemas.base import Schema

PER_ORDER = 32  # entries of each order that are recorded of a tensor with a snapshot, at most,
MOST_RECORDED = 4096  # and of all tensors together, unless there are more than 1,024 tensors;
SHARE, FEW_RECORDED = 16, 128  # of small trials fewer: one of 16 entries, or 128
COMPARED = 1024  # entries of tensors that readers compare by themselves; of those only gradients are recorded

MAX_INDICES = 100
MAX_NUMBERS = 10_000  # that the course of some entries has: entries times steps


class Form(StrEnum):
    """In which form entries are read."""

    optimized = "optimized"  # before the transform
    used = "used"  # after it, as the losses read them


class Order(StrEnum):
    """By what the entries of a tensor are ordered."""

    change = "change"
    gradient = "gradient"
    highest = "highest"
    lowest = "lowest"


class ExtremeEntries(Schema):
    """The entries of one tensor that come first by any `Order`."""

    index: Annotated[tuple[int, ...], Field(max_length=len(Order) * PER_ORDER), about("flat indices, ascending")]
    gradient: Annotated[tuple[float, ...] | None, about("the hypergradient of each; null: before the first step")]

    @model_validator(mode="after")
    def _check(self) -> Self:
        numbers = len(self.index if self.gradient is None else self.gradient)
        if min(self.index, default=0) < 0 or numbers != len(self.index):
            raise ValueError("each index must have a gradient, and none may be negative")
        return self

    @property
    def gradients(self) -> dict[int, float]:
        """Those that are recorded, by index."""
        return dict(zip(self.index, self.gradient or (), strict=False))


class RecordedEntries(Schema):
    """The entries that a worker records with a snapshot, because finding them later would read all numbers."""

    k: Annotated[int, about("entries of each order", ge=1, le=PER_ORDER)]
    tensors: Annotated[dict[str, ExtremeEntries], about("by the name of the hyperparameter")]
    moved: Annotated[
        dict[str, Annotated[float, Field(ge=0, le=1)]] | None,
        about(
            "fraction of the entries whose value, as the losses read it, differs from its start by more than 10 % of "
            "it, by the name of the hyperparameter; null: recorded by an earlier version"
        ),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        most = max(MOST_RECORDED, len(Order) * len(self.tensors))
        if sum(len(entries.index) for entries in self.tensors.values()) > most:
            raise ValueError(f"a snapshot may have at most {most} recorded entries")
        return self

    @staticmethod
    def per_order(sizes: Collection[int]) -> int:
        """How many entries of each order are recorded of each tensor, if they have so many entries."""
        orders = sum(1 if size <= COMPARED else len(Order) for size in sizes)
        most = min(max(FEW_RECORDED, sum(sizes) // SHARE), MOST_RECORDED)
        return max(1, min(PER_ORDER, most // max(1, orders)))


class TopEntry(Schema):
    """One entry of a hyperparameter at one step."""

    index: Annotated[int, about("flat index in row-major order", example=17)]
    position: Annotated[tuple[int, ...], about("index of each dimension; empty for a scalar", example=[3, 5])]
    name: Annotated[str, about("what it belongs to", example="example 17")]
    value: Annotated[Number, about("before the transform, as it is optimized", example=-4.3)]
    used: Annotated[Number, about("after the transform, as the losses read it", example=0.0136)]
    start: Annotated[Number, about("before the transform, at the start of the trial", example=-6.0)]
    change: Annotated[Number, about("`value` minus `start`", example=1.7)]
    gradient: Annotated[Number | None, about("hypergradient of the step; null: it is not recorded", example=-0.02)]


class TopEntries(Schema):
    """The entries of a hyperparameter that come first by one order."""

    name: Annotated[str, about("of the hyperparameter", example="l2.0.weight")]
    step: Annotated[int, about("of the snapshot", unit="outer steps", example=10)]
    by: Annotated[Order, about("the order of `items`")]
    items: Annotated[tuple[TopEntry, ...], about("at most `k`, and of many tensors as many as were recorded")]


class EntryValues(Schema):
    """The course of some entries of a hyperparameter over the steps that have a snapshot."""

    name: Annotated[str, about("of the hyperparameter", example="l2.0.weight")]
    form: Annotated[
        Form, about("`optimized`: `values` are before the transform; `used`: after it, as the losses read them")
    ]
    steps: Annotated[tuple[int, ...], about("in order", unit="outer steps", example=[0, 10])]
    index: Annotated[tuple[int, ...], about("flat indices, as requested", example=[17])]
    names: Annotated[tuple[str, ...], about("what each entry belongs to", example=["example 17"])]
    values: Annotated[
        tuple[tuple[Number, ...], ...], about("for each entry, its value at each of the steps", example=[[-6.0, -4.3]])
    ]
