"""Arguments of the kinds of hyperparameters: checked against their annotations, and what annotations cannot say."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from nestor.errors import ArgumentInvalid, ChoiceUnknown, OptionOutOfRange, arguments_of, shown

P = ParamSpec("P")
R = TypeVar("R")


def checked(owner: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that its arguments have the types of its annotations.

    A `float` is a finite number, an `int` a whole number; both become numbers of Python, whatever library they are of.
    An array becomes a `Tensor`. A `Literal`, `str`, dict, `torch.dtype` or `nn.Module` is one. Arguments of other
    types, and defaults, pass unchecked.

    Args:
        owner: how users call the function; methods are called as the class of the object.

    Raises:
        CallInvalid: there are too many arguments, too few, or others.
        ArgumentInvalid, ChoiceUnknown: an argument has another type.
        ArgumentsInvalid: the function raised something else than an error of Nestor's.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature, run = inspect.signature(function), arguments_of(owner)(function)

        @functools.cache  # annotations are read when they are needed: a class may name itself
        def expected() -> dict[str, Any]:
            return {name: hint for name, hint in typing.get_type_hints(function).items() if name != "return"}

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return run(*args, **kwargs)  # which says what does not fit
            for name, given in bound.arguments.items():
                default = signature.parameters[name].default
                if name in expected() and not (given is default or (isinstance(given, float) and given == default)):
                    bound.arguments[name] = _of_type(expected()[name], owner, name, given)
            return run(*bound.args, **bound.kwargs)

        return call

    return decorate


def _of_type(hint: Any, owner: str, argument: str, given: Any) -> Any:
    """`given`, or the number of Python that it stands for."""
    alternatives = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if given is None and type(None) in alternatives:
        return None
    (first, *others) = [one for one in alternatives if one is not type(None)]
    if others:
        return given  # the function tells them apart
    if typing.get_origin(first) is Literal:
        choices = list(typing.get_args(first))
        if not isinstance(given, str) or given not in choices:
            raise ChoiceUnknown(option=f"{owner}({argument}={shown(given)})", choices=choices)
        return given
    if first is float:
        return number(owner, argument, given)
    if first is int:
        return whole(owner, argument, given)
    if first is str:
        return text(owner, argument, given)
    if first is Tensor:
        return tensor(owner, argument, given)
    kind = typing.get_origin(first) or first
    if kind in _NAMES and not isinstance(given, kind):
        raise ArgumentInvalid(owner=owner, argument=argument, given=shown(given), expected=_NAMES[kind])
    return given


_NAMES: dict[type, str] = {
    nn.Module: "a torch.nn.Module",
    torch.dtype: "a torch.dtype, such as torch.float32",
    dict: "a dict with texts as keys",
}


def number(owner: str, argument: str, given: object) -> float:
    """`given` as a finite number of Python.

    Raises:
        ArgumentInvalid: it is not a finite number.
    """
    try:
        value = float(given)  # pyright: ignore[reportArgumentType]: that is the question
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if isinstance(given, str | bytes | bool) or not math.isfinite(value):
        raise ArgumentInvalid(owner=owner, argument=argument, given=shown(given), expected="a finite number")
    return value


def whole(owner: str, argument: str, given: object) -> int:
    """`given` as a whole number of Python.

    Raises:
        ArgumentInvalid: it is not a whole number.
    """
    try:
        if not isinstance(given, bool):
            return operator.index(given)  # pyright: ignore[reportArgumentType]: that is the question
    except (TypeError, RuntimeError):
        pass
    raise ArgumentInvalid(owner=owner, argument=argument, given=shown(given), expected="a whole number")


def text(owner: str, argument: str, given: object) -> str:
    """`given`, which must be text that is not empty.

    Raises:
        ArgumentInvalid: it is not text, or empty.
    """
    if not isinstance(given, str) or not given:
        raise ArgumentInvalid(owner=owner, argument=argument, given=shown(given), expected="text that is not empty")
    return given


def at_least(least: int, owner: str, argument: str, given: int, *, largest: int = 2**31 - 1) -> None:
    """Check a whole number.

    Raises:
        OptionOutOfRange: it is below `least` or above `largest`.
    """
    if not least <= given <= largest:
        rule = f"it must be at least {least}" if given < least else f"it must be at most {largest:,}"
        raise OptionOutOfRange(option=f"{owner}({argument}={given})", rule=rule)


def tensor(owner: str, argument: str, given: Any) -> Tensor:
    """`given` as a tensor without a graph.

    Raises:
        ArgumentInvalid: it cannot be one.
    """
    try:
        return torch.as_tensor(given).detach()
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentInvalid(
            owner=owner, argument=argument, given=shown(given), expected="a tensor, or an array of numbers"
        ) from None


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
