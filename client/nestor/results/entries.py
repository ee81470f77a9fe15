"""Single entries of hyperparameters: which ones a request names, those that stand out, and the course of some."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from nestor.errors import EntryUnknown, TooManyEntries
from nestor.program_format import flat_index, multi_index
from nestor.schemas import (
    MAX_INDICES,
    MAX_NUMBERS,
    EntryValues,
    Form,
    HyperparameterInfo,
    Order,
    TopEntries,
    TopEntry,
)


def _exp(raw: float) -> float:
    try:
        return math.exp(raw)
    except OverflowError:
        return math.inf


# As `nestor_engine.hparams.TRANSFORMS`, of one number.
TRANSFORMED: dict[str, Callable[[float], float]] = {
    "identity": lambda raw: raw,
    "exp": _exp,
    "sigmoid": lambda raw: 1 / (1 + _exp(-raw)),
    "softplus": lambda raw: max(raw, 0.0) + math.log1p(math.exp(-abs(raw))),
}


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


def course_steps(steps: Sequence[int], entries: int, max_points: int | None = None) -> list[int]:
    """Of the steps that have a snapshot, those at which so many entries are read: all, or evenly chosen ones."""
    n, most = len(steps), min(max_points or MAX_NUMBERS, MAX_NUMBERS // entries)
    return list(steps) if n <= most else [steps[i * (n - 1) // (most - 1)] for i in range(most)]


def course(
    info: HyperparameterInfo,
    *,
    form: Form,
    steps: Sequence[int],
    index: Sequence[int],
    by_step: Sequence[Sequence[float]],
) -> EntryValues:
    """The course of entries, from the values before the transform: for each step, one for each index."""
    transform = TRANSFORMED[info.transform if form is Form.used else "identity"]
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
        Order.gradient: [0.0 if gradient is None else abs(gradient) for gradient in gradients],
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
