"""The user's transform of training batches: where it is applied, and what it must return."""

# pyright: reportUnknownMemberType=false
# (torch does not type manual_seed)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from nestor.errors import TransformInvalid, TransformNotReproducible, shown
from nestor.program_format import INDEX
from nestor_engine.hparams import Hyperparameters
from nestor_engine.objective import Batch, Tensors
from nestor_engine.problem.validation.report import Findings

Transform = Callable[[Batch], Batch]

_RETURN = 'Return the batch with its changed columns, as in {**batch, "x": x}.'


@dataclass(frozen=True)
class TransformedBatches:
    """`prepare` of a problem with a transform, which comes before the kinds of hyperparameters."""

    transform: Transform
    kinds: Hyperparameters

    def __call__(self, values: Tensors, batch: Batch) -> Batch:
        return self.kinds.prepare(values, transformed(self.transform, batch))


def transformed(transform: Transform, batch: Batch) -> Batch:
    """What `transform` returns for `batch`, all of whose columns it must keep.

    Raises:
        TransformInvalid: it returns something else, or writes into the batch.
    """
    n = batch[INDEX].shape[0]
    versions = {name: values._version for name, values in batch.items()}
    given: Any = transform(dict(batch))
    if not isinstance(given, Mapping):
        raise TransformInvalid(reason=f"returned a {type(given).__name__}, not a dict of columns", advice=_RETURN)
    returned = dict(cast("Mapping[Any, Any]", given))
    if changed := [name for name, version in versions.items() if batch[name]._version != version]:
        advice = "Work on a copy: x + noise instead of x += noise."
        raise TransformInvalid(reason=f"writes into the column {changed[0]!r}, that is into the data", advice=advice)
    if lost := [name for name in batch if name not in returned]:
        raise TransformInvalid(reason=f"left out the column {lost[0]!r}", advice=_RETURN)
    for name, values in returned.items():
        if not isinstance(name, str) or not isinstance(values, Tensor):
            reason = f"returned a {type(values).__name__} as the column {shown(name)}"
            raise TransformInvalid(reason=reason, advice="Return tensors with a row for each example, by name.")
        if not values.ndim or values.shape[0] != n:
            reason = f"returned the shape {tuple(values.shape)} as the column {name!r} of a batch of {n}"
            raise TransformInvalid(reason=reason, advice="Keep the number of examples.")
    if returned[INDEX].shape != batch[INDEX].shape or returned[INDEX].dtype != batch[INDEX].dtype:
        raise TransformInvalid(
            reason="changed the column 'index', the examples' positions", advice="Return it as it is."
        )
    return returned


def check_transform(findings: Findings, transform: Transform | None, batch: Batch) -> None:
    """Report a transform that fails, returns something else than a batch, or draws outside of torch."""
    if transform is None:
        return
    with findings.explaining("transform", batch=batch):
        results: list[Batch] = []
        for _ in range(2):
            torch.manual_seed(0)
            results.append(transformed(transform, batch))
        first, second = results
        if first.keys() != second.keys() or not all(_same(first[name], second[name]) for name in first):
            findings.error(
                "transform",
                "Two calls with one seed give different batches: it draws random numbers outside of torch, or keeps "
                "state between calls. Use torch's random functions without a generator of your own.",
                TransformNotReproducible,
            )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
