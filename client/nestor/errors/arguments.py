"""Arguments that do not fit: what Python, torch or NumPy raise about them, as an error of Nestor's."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import ParamSpec, TypeVar, final

from nestor.errors.base import NestorError, shown
from nestor.errors.requests import InvalidInput
from nestor.errors.trials import is_out_of_memory

P = ParamSpec("P")
R = TypeVar("R")


class ArgumentInvalid(InvalidInput):
    """An argument has a type that cannot be used."""

    message = "{owner}: {argument} is {given}."
    remedy = "Pass {expected}."


class ArgumentsInvalid(InvalidInput):
    """A call fails because of what it was given; the original error is the `__cause__`."""

    message = "{owner} cannot use these arguments: {reason}."
    remedy = "Compare them with its documentation."


class CallInvalid(InvalidInput, TypeError):
    """A call has an argument that the function does not take, or lacks one."""

    message = "{owner}: {reason}."
    remedy = "{advice}"


def called_as(owner: str, **elsewhere: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that calls that do not fit its signature raise `CallInvalid`.

    Args:
        owner: how users call the function.
        elsewhere: names of arguments that other libraries take, with what to do in Nestor.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except TypeError as error:
                if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                    raise  # from inside the function
                raise _misfit(owner, function, args, kwargs, elsewhere) from None

        return call

    return decorate


@final
class arguments_of:  # it is written like a function: @arguments_of("Problem")
    """Raise `ArgumentsInvalid` for the errors of a body, or of a function that this decorates.

    A call of the function that does not fit its signature raises `CallInvalid`. Another `TypeError` stays what it is,
    and so does the error of exhausted memory, which is nobody's mistake.
    """

    def __init__(self, owner: str, **elsewhere: str) -> None:
        self._owner, self._elsewhere = owner, elsewhere

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, NestorError | TypeError) or (error is not None and is_out_of_memory(error)):
            return
        if isinstance(error, (ArithmeticError, AttributeError, LookupError, RuntimeError, ValueError)):
            reason = f"{type(error).__name__}: {error}".split("\n")[0].rstrip(".")
            raise ArgumentsInvalid(owner=self._owner, reason=reason) from error

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        checked = called_as(self._owner, **self._elsewhere)(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return checked(*args, **kwargs)

        return call


def _misfit(
    owner: str,
    function: Callable[..., object],
    args: tuple[object, ...],
    given: Mapping[str, object],
    elsewhere: Mapping[str, str],
) -> CallInvalid:
    """What does not fit, of the arguments of a call that Python refused."""
    own = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    names = [p.name for p in own]
    if unknown := next((name for name in given if name not in names), None):
        close = difflib.get_close_matches(unknown, names, 1)
        advice = elsewhere.get(unknown) or (f"Did you mean {close[0]!r}?" if close else f"It takes {', '.join(names)}.")
        value = shown(given[unknown], 40)
        return CallInvalid(owner=owner, reason=f"there is no argument {unknown!r} (given: {value})", advice=advice)
    positional = [p.name for p in own if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_position = len(args) - ("self" in inspect.signature(function).parameters)
    if by_position > len(positional):
        listed = ", ".join(positional) or "none"
        reason = f"it takes at most {len(positional)} arguments by position ({listed}), and {by_position} were given"
        return CallInvalid(owner=owner, reason=reason, advice="Pass the others by name.")
    if twice := next((name for name in positional[:by_position] if name in given), None):
        return CallInvalid(owner=owner, reason=f"{twice!r} is given by position and by name", advice="Pass it once.")
    required = [p.name for p in own if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = [name for name in required if name not in given and name not in positional[: max(0, by_position)]]
    listed = " and ".join(repr(name) for name in missing)
    reason = f"the argument {listed} is missing" if len(missing) == 1 else f"the arguments {listed} are missing"
    return CallInvalid(owner=owner, reason=reason, advice=f"Pass {', '.join(f'{name}=…' for name in missing)}.")


def no_attribute(owner: object, name: str, elsewhere: Mapping[str, str]) -> AttributeMissing:
    """The error of `__getattr__`: `elsewhere` has names of other libraries with what to use here."""
    close = difflib.get_close_matches(name, [one for one in dir(type(owner)) if not one.startswith("_")], 1)
    advice = elsewhere.get(name) or (f"Did you mean {close[0]!r}?" if close else "")
    return AttributeMissing(owner=type(owner).__name__, name=name, advice=advice)


class AttributeMissing(InvalidInput, AttributeError):
    """A study or trial has no such attribute."""

    message = "{owner} has no attribute {name!r}."
    remedy = "{advice}"
