"""Checks of the arguments with which users watch a trial, which no schema describes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import cast

from nestor.errors import ArgumentInvalid, OptionTypeWrong, shown


def expect_flag(name: str, given: object) -> None:
    """Check a flag.

    Raises:
        OptionTypeWrong: it is neither True nor False.
    """
    if not isinstance(given, bool):
        raise OptionTypeWrong(option=f"{name}={shown(given)}", rule="it must be True or False")


def expect_callbacks(owner: str, given: object, arguments: tuple[str, ...]) -> None:
    """Check a list of functions that are called with `arguments`.

    Raises:
        ArgumentInvalid: it is no list, or holds something else than such functions.
    """
    expected = f"a list of functions of ({', '.join(arguments)})"
    if not isinstance(given, list | tuple):
        raise ArgumentInvalid(owner=owner, argument="callbacks", given=shown(given), expected=expected)
    for index, callback in enumerate(cast("Sequence[object]", given)):
        if not (callable(callback) and _takes(callback, len(arguments))):
            argument = f"callbacks[{index}]"
            raise ArgumentInvalid(owner=owner, argument=argument, given=shown(callback), expected=expected)


def _takes(function: Callable[..., object], n: int) -> bool:
    """Whether `function` can be called with `n` arguments by position, as far as Python knows."""
    try:
        inspect.signature(function).bind(*range(n))
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True
