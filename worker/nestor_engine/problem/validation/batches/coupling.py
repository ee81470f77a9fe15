"""Look at how a loss depends on the batch: whether it couples examples, and whether it grows with their number."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor.errors import ExamplesCoupled, LossSummed
from nestor_engine.data.splits import INDEX
from nestor_engine.objective import Batch, PyTree
from nestor_engine.problem.validation.report import Called, Findings
from nestor_engine.tensors.linalg import vector_norm
from nestor_engine.tensors.random import randomness

Loss = Callable[[PyTree, Batch], Tensor]
_TOLERANCE = 1e-3  # relative; losses are computed in single precision


def check_coupling(findings: Findings, which: str, called: Called | None) -> None:
    """Report what the loss `which` does with the examples of a batch that a mean over them does not."""
    if called is None:
        return
    loss, outputs, batch = called.again, called.outputs, called.batch
    if grows_with_the_batch(loss, outputs, batch):
        findings.warning(
            which,
            "It grows with the number of examples in the batch, so its balance with other terms depends on the "
            "batch size. Return the mean (reduction='mean'), or one loss per example.",
            LossSummed,
        )
    if not couples_examples(loss, outputs, batch):
        return
    if column := broadcasts(loss, outputs, batch):
        findings.warning(
            which,
            f"It broadcasts outputs of shape {tuple(outputs.shape)} with the column {column!r} of shape "
            f"{tuple(batch[column].shape)}, and so compares every example with every other. Give both one "
            "shape, for example with outputs.squeeze(1).",
            ExamplesCoupled,
        )
    else:
        findings.warning(
            which,
            "The loss of one example depends on the others in the batch. That is right for a contrastive or a "
            "ranking loss. Otherwise compare the shapes of the outputs and the columns: torch broadcasts them.",
            ExamplesCoupled,
        )


def grows_with_the_batch(loss: Loss, outputs: PyTree, batch: Batch) -> bool:
    """Whether a scalar loss doubles if every example occurs twice, as a sum does and a mean does not."""
    with contextlib.suppress(Exception), torch.no_grad():  # a loss may need the very batch
        rows = torch.arange(len(batch[INDEX]))
        once, twice = (loss(*taken(outputs, batch, chosen)) for chosen in (rows, rows.repeat(2)))
        return once.ndim == 0 and bool(once.abs() > 1e-6) and torch.allclose(twice, 2 * once, rtol=_TOLERANCE, atol=0.0)
    return False


def couples_examples(loss: Loss, outputs: PyTree, batch: Batch) -> bool:
    """Whether the gradient at one example's outputs changes when other examples are exchanged.

    A common factor does not count: a mean over the positions that are not ignored has one.
    """
    with contextlib.suppress(Exception), torch.enable_grad():  # a loss may need the very batch
        n = len(batch[INDEX])
        kept = n // 2
        rows = torch.arange(n)
        exchanged = torch.cat([rows[:kept], rows[:1].expand(n - kept)])  # the others become the first example
        first, second = (_slopes(loss, *taken(outputs, batch, chosen), kept) for chosen in (rows, exchanged))
        if not first.any() or not second.any() or not (first.isfinite().all() and second.isfinite().all()):
            return False
        along = (first @ second) / (second @ second)
        return bool(vector_norm(first - along * second) > _TOLERANCE * vector_norm(first))
    return False


def broadcasts(loss: Loss, outputs: PyTree, batch: Batch) -> str | None:
    """The column of shape (B,) that a loss broadcasts with outputs of shape (B, 1), or the other way around.

    It is one if the loss couples examples, and does not when the outputs have the shape of the column.
    """
    if not isinstance(outputs, Tensor):
        return None
    n = len(batch[INDEX])
    for name, values in batch.items():
        if name == INDEX or {tuple(outputs.shape), tuple(values.shape)} != {(n,), (n, 1)}:
            continue
        if not couples_examples(partial(_aligned, loss, name), outputs, batch):
            return name
    return None


def _aligned(loss: Loss, column: str, outputs: Tensor, batch: Batch) -> Tensor:
    """The loss of outputs in the shape of a column."""
    return loss(outputs.reshape(batch[column].shape), batch)


def taken(outputs: PyTree, batch: Batch, rows: Tensor) -> tuple[PyTree, Batch]:
    """Outputs and columns of some examples.

    Raises:
        ValueError: an output has no row for each example, or cannot be taken apart.
    """
    n = len(batch[INDEX])
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(outputs)):
        raise ValueError("an object, whose tensors cannot be exchanged")

    def chosen(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.shape[:1] != (n,):
            raise ValueError("not one row for each example")
        taken = leaf.detach()[rows.to(leaf.device)]
        return taken.requires_grad_(leaf.requires_grad)

    return pytree.tree_map(chosen, outputs), {
        name: values.detach()[rows.to(values.device)] for name, values in batch.items()
    }


def _slopes(loss: Loss, outputs: PyTree, batch: Batch, kept: int) -> Tensor:
    """The gradient of the loss at the outputs of the first `kept` examples, as one vector."""
    at = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.requires_grad]
    with randomness(0, batch[INDEX].device):  # a loss with noise does not couple examples
        value = loss(outputs, batch)
    value = value[:kept].sum() if value.ndim else value
    slopes = torch.autograd.grad(value, at, allow_unused=True, materialize_grads=True)
    return torch.cat([slope[:kept].reshape(-1) for slope in slopes])
