"""Checks of the arguments of a search."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from nestor.errors import ArgumentInvalid, OptionOutOfRange, shown


def expect_instance(argument: str, given: object, cls: type, example: str) -> None:
    """Check a sampler or a pruner; None stands for Optuna's default.

    Raises:
        ArgumentInvalid: it is something else.
    """
    if given is not None and not isinstance(given, cls):
        expected = f"one of optuna.{argument}s, such as optuna.{argument}s.{example}"
        raise ArgumentInvalid(owner="study.search", argument=argument, given=shown(given), expected=expected)


def builder(given: object) -> tuple[Callable[[dict[str, Any]], Any], bool]:
    """A function of the sampled values that makes a problem, and whether it takes them.

    Raises:
        ArgumentInvalid: it can be called neither with one argument nor with none.
    """
    if not callable(given):
        expected = "a function that gets a dictionary of the sampled values and returns a nestor.Problem"
        raise ArgumentInvalid(owner="study.search", argument="problem_fn", given=shown(given), expected=expected)
    function = cast("Callable[..., Any]", given)
    try:
        inspect.signature(function).bind({})
    except TypeError:
        try:
            inspect.signature(function).bind()
        except TypeError:
            expected = "a function of one argument, the dictionary of the sampled values, or of none"
            given = shown(given)
            raise ArgumentInvalid(owner="study.search", argument="problem_fn", given=given, expected=expected) from None
        return lambda values: function(), False
    except ValueError:  # a builtin without a signature
        pass
    return function, True


def seconds(given: object) -> float:
    """A timeout, in seconds.

    Raises:
        OptionOutOfRange: it is no positive number.
    """
    if isinstance(given, bool) or not isinstance(given, int | float) or not given > 0:
        raise OptionOutOfRange(option=f"timeout={shown(given)}", rule="it must be a number of seconds, above 0")
    return given
