"""Single entries of hyperparameters: those that stand out at a step, and the course of some of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nestor.errors import EntryUnknown, TooManyEntries
from nestor.options.base import Number, about
from nestor.program_format import flat_index, multi_index
from nestor.schemas.base import Schema
from nestor.schemas.hyperparameters import HyperparameterInfo

PER_ORDER = 32  # entries of each order that are recorded of a tensor with a snapshot, at most,
MOST_RECORDED = 4096  # and of all tensors together, unless there are more than 1,024 tensors;
SHARE, FEW_RECORDED = 16, 128  # of small trials fewer: one of 16 entries, or 128
COMPARED = 1024  # entries of tensors that readers compare by themselves; of those only gradients are recorded

MAX_INDICES = 100
MAX_NUMBERS = 10_000  # that the course of some entries has: entries times steps

As = Literal["optimized", "used"]

TRANSFORMED: dict[str, Callable[[float], float]] = {
    "identity": lambda raw: raw,
    "exp": lambda raw: math.exp(raw) if raw < 709 else math.inf,
    "sigmoid": lambda raw: 1 / (1 + math.exp(-raw)) if raw > -709 else 0.0,
    "softplus": lambda raw: max(raw, 0.0) + math.log1p(math.exp(-abs(raw))),
}


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
        As, about("`optimized`: `values` are before the transform; `used`: after it, as the losses read them")
    ]
    steps: Annotated[tuple[int, ...], about("in order", unit="outer steps", example=[0, 10])]
    index: Annotated[tuple[int, ...], about("flat indices, as requested", example=[17])]
    names: Annotated[tuple[str, ...], about("what each entry belongs to", example=["example 17"])]
    values: Annotated[
        tuple[tuple[Number, ...], ...], about("for each entry, its value at each of the steps", example=[[-6.0, -4.3]])
    ]


def flat_indices(info: HyperparameterInfo, text: str) -> list[int]:
    """The entries that `text` names by flat indices and positions, such as "0,17,3.5".

    Raises:
        EntryUnknown: the hyperparameter has no such entry.
        TooManyEntries: more than `MAX_INDICES`.
    """
    items = [item.strip() for item in text.split(",")]
    if len(items) > MAX_INDICES:
        raise TooManyEntries(n=len(items), limit=MAX_INDICES)
    shape, n = info.shape, math.prod(info.shape)
    found: list[int] = []
    for item in items:
        parts = [int(part) for part in item.split(".")] if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})*", item) else []
        if len(parts) == 1:
            fits, index = parts[0] < n, parts[0]
        else:
            fits = len(parts) == len(shape) > 0 and all(at < size for at, size in zip(parts, shape, strict=True))
            index = flat_index(shape, parts) if fits else 0
        if not fits:
            raise EntryUnknown(name=info.name, given=item, shape=shape, last=n - 1)
        found.append(index)
    return found


def course_steps(steps: Sequence[int], entries: int, max_points: int | None) -> list[int]:
    """Of the steps that have a snapshot, those at which so many entries are read: all, or evenly chosen ones."""
    n, most = len(steps), min(max_points or MAX_NUMBERS, MAX_NUMBERS // entries)
    return list(steps) if n <= most else [steps[i * (n - 1) // (most - 1)] for i in range(most)]


def course(
    info: HyperparameterInfo,
    *,
    form: As,
    steps: Sequence[int],
    index: Sequence[int],
    by_step: Sequence[Sequence[float]],
) -> EntryValues:
    """The course of entries, from the values before the transform: for each step, one for each index."""
    transform = TRANSFORMED[info.transform if form == "used" else "identity"]
    return EntryValues(
        name=info.name,
        form=form,
        steps=tuple(steps),
        index=tuple(index),
        names=tuple(info.entry_name(i) for i in index),
        values=tuple(tuple(transform(of[at]) for of in by_step) for at in range(len(index))),
    )


def top_entries(
    info: HyperparameterInfo,
    *,
    step: int,
    by: Order,
    k: int,
    index: Sequence[int],
    values: Sequence[float],
    starts: Sequence[float],
    gradients: Sequence[float | None],
) -> TopEntries:
    """The first `k` of some entries, which have lower indices where they are equal.

    Args:
        index: flat indices of the entries. The other sequences have their numbers.
        gradients: None where they are not known; then `by` is another order.
    """
    changes = [value - start for value, start in zip(values, starts, strict=True)]
    scores = {
        Order.change: [abs(change) for change in changes],
        Order.gradient: [abs(gradient) for gradient in gradients if gradient is not None],
        Order.highest: values,
        Order.lowest: [-value for value in values],
    }[by]

    def rank(i: int) -> tuple[float, int]:
        # What is not a number comes first, as on the worker.
        return (-math.inf if math.isnan(scores[i]) else -scores[i], index[i])

    chosen = sorted(range(len(scores)), key=rank)[:k]
    items = tuple(
        TopEntry(
            index=index[i],
            position=multi_index(info.shape, index[i]),
            name=info.entry_name(index[i]),
            value=values[i],
            used=TRANSFORMED[info.transform](values[i]),
            start=starts[i],
            change=changes[i],
            gradient=gradients[i],
        )
        for i in chosen
    )
    return TopEntries(name=info.name, step=step, by=by, items=items)
