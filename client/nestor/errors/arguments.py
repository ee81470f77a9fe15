"""Arguments of the wrong type or value: what Python, torch or NumPy raise about them, as an error of Nestor's."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from nestor.errors.base import NestorError
from nestor.errors.requests import InvalidInput
from nestor.errors.trials import is_out_of_memory


class ArgumentInvalid(InvalidInput):
    """An argument has a type that cannot be used."""

    message = "{owner}: {argument} is {given}."
    remedy = "Pass {expected}."


class ArgumentsInvalid(InvalidInput):
    """A call fails because of what it was given; the original error is the `__cause__`."""

    message = "{owner} cannot use these arguments: {reason}."
    remedy = "Compare them with its documentation."


@contextmanager
def arguments_of(owner: str) -> Generator[None]:
    """Raise `ArgumentsInvalid` for the errors of a body, or of a function that this decorates.

    A `TypeError` stays what it is: so Python itself answers a call that does not fit a signature. So does the error of
    exhausted memory, which is nobody's mistake.
    """
    try:
        yield
    except (NestorError, TypeError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}".split("\n")[0].rstrip(".")
        raise ArgumentsInvalid(owner=owner, reason=reason) from error
