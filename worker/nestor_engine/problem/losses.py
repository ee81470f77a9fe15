"""Whether losses and metrics can be called as the engine calls them, and what they may return."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor, nn

from nestor.errors import ArgumentInvalid, shown

EXPECTED = "a function of (outputs, batch), or of (outputs, batch, hparams)"


def expect_loss(argument: str, function: object) -> None:
    """Check one loss or metric.

    Raises:
        ArgumentInvalid: it is not callable with these arguments, or is a criterion of torch, which takes a target.
    """
    if not callable(function):
        raise ArgumentInvalid(owner="Problem", argument=argument, given=shown(function), expected=EXPECTED)
    if _is_torch_criterion(function):
        name = type(function).__name__ if isinstance(function, nn.Module) else getattr(function, "__name__", "f")
        given = f"{name}, which takes outputs and a target"
        expected = f"{EXPECTED}; batch is a dict of columns: lambda outputs, batch: criterion(outputs, batch['y'])"
        raise ArgumentInvalid(owner="Problem", argument=argument, given=given, expected=expected)
    if not _takes_a_batch(function):
        given = f"a function of {inspect.signature(function)}"
        raise ArgumentInvalid(owner="Problem", argument=argument, given=given, expected=EXPECTED)


def expect_metrics(metrics: object) -> None:
    """Check the dict of metrics.

    Raises:
        ArgumentInvalid: it is something else, or one of its entries cannot be used.
    """
    expected = "a dict of names and functions, such as {'accuracy': accuracy}"
    if not isinstance(metrics, Mapping):
        raise ArgumentInvalid(owner="Problem", argument="metrics", given=shown(metrics), expected=expected)
    for name, metric in cast("Mapping[object, object]", metrics).items():
        if not isinstance(name, str):
            given = f"a dict with the key {shown(name)}"
            raise ArgumentInvalid(owner="Problem", argument="metrics", given=given, expected=expected)
        expect_loss(f"metrics[{name!r}]", metric)


def batch_hint(message: str, batch: object) -> str:
    """What to do about an error that comes from taking the batch for something else; empty for other errors.

    Args:
        message: of the error; for a KeyError, the key as Python writes it.
    """
    if not isinstance(batch, Mapping) or not batch:
        return ""
    columns = list(map(str, cast("Mapping[str, Tensor]", batch)))
    key = re.fullmatch(r"-?\d+|'([^']*)'", message)
    taken_for_another = re.search(r"must be Tensor, not dict|'dict' object has no attribute", message)
    if not taken_for_another and (key is None or key[1] in columns):
        return ""
    listed = ", ".join(map(repr, columns))
    return f"batch is a dict of columns, which are {listed}: read one by its name, such as batch[{columns[-2:][0]!r}]. "


def _is_torch_criterion(function: Callable[..., object]) -> bool:
    """Whether it is one of torch's losses, such as nn.CrossEntropyLoss() or F.mse_loss."""
    own = type(function) if isinstance(function, nn.Module) else function
    return str(getattr(own, "__module__", "") or "").startswith("torch.")


def _takes_a_batch(function: Callable[..., object]) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin without a signature
        return True
    for args, kwargs in (((0, 1), {}), ((0, 1, 2), {}), ((0, 1), {"hparams": 2})):
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            continue
        return True
    return False
