"""Check that losses and metrics can be computed on chunks of a split: as means, or as sums and weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nestor.errors import NotAMean, SumsNotAdditive
from nestor_engine.data.splits import INDEX
from nestor_engine.measuring.results import is_pair
from nestor_engine.objective import Batch, PyTree
from nestor_engine.problem.model.outputs import flattened, restored
from nestor_engine.problem.validation.batches.coupling import couples_examples, grows_with_the_batch, taken
from nestor_engine.problem.validation.report import Called, Findings
from nestor_engine.tensors.random import randomness

Function = Callable[[PyTree, Batch], Any]
_TOLERANCE = 1e-3  # relative; losses are computed in single precision


def check_mean(findings: Findings, which: str, called: Called | None) -> None:
    """Compare a loss on a batch with that on its parts, and report one that is not a mean over examples."""
    if called is None:
        return
    loss, outputs, batch = called.loss, called.outputs, called.batch
    if is_pair(called.result):
        check_sums(findings, which, loss, outputs, batch)
        return
    # Sums and contrastive losses have warnings of their own.
    if grows_with_the_batch(called.again, outputs, batch) or couples_examples(called.again, outputs, batch):
        return
    for whole, parts, sizes in _splits(loss, outputs, batch):
        mean = sum(part.mean() * size for part, size in zip(parts, sizes, strict=True)) / sum(sizes)
        if not _close(whole.mean(), torch.as_tensor(mean)):
            findings.warning(
                which,
                f"It is not a mean over examples: on a batch it is {float(whole.mean()):.6g}, and the mean over two "
                f"parts of the batch is {float(mean):.6g}. A loss of tokens of which some are ignored, or with weights "
                "of classes, is such a loss. On a split of more than 1,024 examples the mean over chunks is reported. "
                "Return the pair (sum, weight) of two scalars, such as the sum of the losses and the number of tokens.",
                NotAMean,
            )
            return


def check_sums(findings: Findings, which: str, function: Function, outputs: PyTree, batch: Batch) -> None:
    """Compare (sum, weight) on a batch with the sums on its parts, and report a difference."""
    for whole, parts, _ in _splits(function, outputs, batch):
        for what, value, of_parts in zip(("sum", "weight"), whole, zip(*parts, strict=True), strict=True):
            total = sum(map(torch.as_tensor, of_parts))
            if not _close(torch.as_tensor(value), torch.as_tensor(total)):
                findings.warning(
                    which,
                    f"It returns (sum, weight), and its {what} on a batch is {float(value):.6g}, but "
                    f"{float(total):.6g} if two parts of the batch are added. Return the sum over the examples and "
                    "the weight of these examples, no means.",
                    SumsNotAdditive,
                )
                return


def _splits(function: Function, outputs: PyTree, batch: Batch) -> list[tuple[Any, list[Any], list[int]]]:
    """Its values on a batch, and on two parts of the batch with their sizes, for several ways to take it apart.

    Empty if the outputs cannot be taken apart, or the function needs the very batch or draws random numbers.
    """
    n = len(batch[INDEX])
    rows = torch.arange(n)
    first = [rows < (n + 1) // 2, rows % 2 == 0, rows < 1, rows >= n - 1]
    found: list[tuple[Any, list[Any], list[int]]] = []
    form = flattened(outputs)  # an object becomes its tensors
    with contextlib.suppress(Exception), torch.no_grad():
        for chosen in first if n > 1 else []:
            parts = [rows[chosen], rows[~chosen]]
            with randomness(0, batch[INDEX].device):
                taken_apart = [taken(form, batch, part) for part in (rows, rows, *parts)]
                again, *values = [function(restored(some), of_batch) for some, of_batch in taken_apart]
            if not _same(again, values[0]):
                return []
            found.append((values[0], values[1:], [len(part) for part in parts]))
    return found


def _same(value: Any, other: Any) -> bool:
    pairs = zip(value, other, strict=True) if is_pair(value) else [(value, other)]
    return all(torch.equal(torch.as_tensor(one), torch.as_tensor(two)) for one, two in pairs)


def _close(value: Tensor, other: Tensor) -> bool:
    """Whether both are equal up to rounding; parts without any token have no mean."""
    if not (value.isfinite() and other.isfinite()):
        return True
    difference, size = float((value.double() - other.double()).abs()), max(float(value.abs()), float(other.abs()))
    return difference <= _TOLERANCE * size + 1e-9
