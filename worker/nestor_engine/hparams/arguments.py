"""Arguments that several kinds of hyperparameters take, and what is wrong with them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from nestor.errors import ArgumentInvalid, OptionOutOfRange, shown


def number(owner: str, argument: str, given: object) -> float:
    """`given` as a finite number of Python.

    Raises:
        ArgumentInvalid: it is not a finite number.
    """
    try:
        value = float(given)  # pyright: ignore[reportArgumentType]: that is the question
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if isinstance(given, str | bool) or not math.isfinite(value):
        raise ArgumentInvalid(owner=owner, argument=argument, given=shown(given), expected="a finite number")
    return value


def count(owner: str, argument: str, given: object, what: str) -> int:
    """`given` as a whole number of at least two. `what` is counted.

    Raises:
        ArgumentInvalid: it is no whole number.
        OptionOutOfRange: it is less than two.
    """
    try:
        n = operator.index(given)  # pyright: ignore[reportArgumentType]: that is the question
    except (TypeError, RuntimeError):
        n = None
    if n is None or isinstance(given, bool):
        raise ArgumentInvalid(
            owner=owner, argument=argument, given=shown(given), expected=f"the number of {what}, a whole number"
        )
    if n < 2:
        raise OptionOutOfRange(option=f"{owner}({argument}={n})", rule=f"there must be at least two {what}")
    return n


def text(owner: str, argument: str, given: object, expected: str) -> str:
    """`given`, which must be text that is not empty.

    Raises:
        ArgumentInvalid: it is not text, or empty.
    """
    if not isinstance(given, str) or not given:
        raise ArgumentInvalid(owner=owner, argument=argument, given=shown(given), expected=expected)
    return given


def positive(owner: str, given: Sequence[float] | Tensor | None, n: int) -> Tensor:
    """Initial weights as a tensor of shape (n,); ones by default.

    Raises:
        OptionOutOfRange: these are not n positive numbers.
    """
    if given is None:
        return torch.ones(n)
    try:
        weights = torch.as_tensor(given, dtype=torch.get_default_dtype()).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        weights = torch.empty(0)
    if weights.shape != (n,) or not (weights.isfinite() & (weights > 0)).all():
        raise OptionOutOfRange(option=f"{owner}(init={shown(given)})", rule=f"give {n} positive numbers")
    return weights
