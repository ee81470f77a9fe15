"""The functions with which users watch a trial, and checks of arguments that no schema describes."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import Enum
from typing import SupportsIndex, TypeVar, cast
from uuid import UUID

from nestor.errors import ArgumentInvalid, ChoiceUnknown, OptionOutOfRange, OptionTypeWrong, shown
from nestor.schemas import State, WhichStep

Choice = TypeVar("Choice", bound=Enum)
Entry = SupportsIndex | tuple[SupportsIndex, ...] | list[SupportsIndex]  # a flat index, or a position


class _Prune(Enum):
    PRUNE = "prune"

    def __repr__(self) -> str:
        return "nestor.PRUNE"

    __str__ = __repr__


PRUNE = _Prune.PRUNE
"""What a callback returns to prune its trial."""


def prunes(callback: Callable[[], object]) -> bool:
    """Call a callback. Whether it asks to prune the trial: it returns `PRUNE`, or raises Optuna's TrialPruned."""
    try:
        return callback() is PRUNE
    except Exception as error:
        # By name, because only a user who raises it needs to have optuna.
        classes = ((cls.__module__.partition(".")[0], cls.__name__) for cls in type(error).__mro__)
        if ("optuna", "TrialPruned") in classes:
            return True
        raise


def expect_flag(name: str, given: object) -> None:
    """Check a flag.

    Raises:
        OptionTypeWrong: it is neither True nor False.
    """
    if not isinstance(given, bool):
        raise OptionTypeWrong(option=f"{name}={shown(given)}", rule="it must be True or False")


def whole_number(name: str, value: object, *, least: int | None = None, most: int | None = None) -> int:
    """`value`, the argument `name`, which must be a whole number from `least` to `most`.

    Raises:
        OptionTypeWrong: it is something else.
        OptionOutOfRange: it is below `least` or above `most`.
    """
    rule = "it must be a whole number"
    if least is not None:
        rule += f", at least {least:,}" if most is None else f" from {least:,} to {most:,}"
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(cast("SupportsIndex", value))
    except TypeError:
        raise OptionTypeWrong(option=f"{name}={shown(value)}", rule=rule) from None
    if (least is not None and number < least) or (most is not None and number > most):
        raise OptionOutOfRange(option=f"{name}={number}", rule=rule)
    return number


def index_text(index: object) -> str:
    """The entries that a user gave, such as "0,17,3.5": a whole number or a tuple is one, others hold several.

    Raises:
        OptionTypeWrong: an entry is neither a whole number nor a position of whole numbers.
    """
    entries: list[object] = [index] if isinstance(index, tuple) else _items(index)
    return ",".join(".".join(str(whole_number("index", part)) for part in _items(entry)) for entry in entries)


def _items(given: object) -> list[object]:
    """What a list, a tuple or an array holds, or `given` itself."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        with suppress(TypeError):  # an array without dimensions
            return list(cast("Iterable[object]", given))
    return [given]


def trial_id(given: UUID | str) -> UUID:
    """`given` as the id of a trial.

    Raises:
        OptionTypeWrong: it is something else.
    """
    try:
        return given if isinstance(given, UUID) else UUID(given)
    except (ValueError, AttributeError, TypeError):
        rule = "pass a trial's id, such as trial.id; study.trial(3) takes a number"
        raise OptionTypeWrong(option=f"trial_id={shown(given)}", rule=rule) from None


def choice(name: str, value: object, kind: type[Choice]) -> Choice:
    """The member of `kind` that `value`, the argument `name`, is or names.

    Raises:
        ChoiceUnknown: no member has this value.
    """
    try:
        return kind(value)
    except ValueError:
        raise ChoiceUnknown(option=f"{name}={shown(value)}", choices=[one.value for one in kind]) from None


def which_step(name: str, value: object) -> WhichStep:
    """`value`, the argument `name`, which must say of which step weights are read.

    Raises:
        OptionTypeWrong: it does not.
    """
    if isinstance(value, str) and value in ("best", "latest"):
        return cast("WhichStep", value)
    if not isinstance(value, str | bool):
        with suppress(TypeError):
            if (number := operator.index(cast("SupportsIndex", value))) >= 0:
                return number
    rule = 'it must be "best", "latest" or the number of a step'
    raise OptionTypeWrong(option=f"{name}={shown(value)}", rule=rule)


def states_of(owner: str, given: object) -> frozenset[State] | None:
    """The states that a user gave, by value, by name, or as Optuna calls them. None stands for all.

    Raises:
        ArgumentInvalid: it is no list of states.
    """
    if given is None:
        return None
    expected = "a list of " + ", ".join(repr(state.value) for state in State)
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ArgumentInvalid(owner=owner, argument="states", given=shown(given), expected=expected)
    found: set[State] = set()
    for state in cast("Iterable[object]", given):
        name = str(getattr(state, "name", state)).lower()
        name = {"fail": "failed", "waiting": "queued"}.get(name, name)  # Optuna's
        if name not in State.__members__:
            raise ArgumentInvalid(owner=owner, argument="a state", given=shown(state), expected=expected)
        found.add(State(name))
    return frozenset(found)


def tags_of(owner: str, given: object) -> list[str]:
    """The tags that a user gave.

    Raises:
        ArgumentInvalid: it is no list of texts.
    """
    tags = None if isinstance(given, str) else given
    if isinstance(tags, Iterable):
        tags = list(cast("Iterable[object]", tags))
        if all(isinstance(tag, str) for tag in tags):
            return cast("list[str]", tags)
    raise ArgumentInvalid(owner=owner, argument="tags", given=shown(given), expected="a list of texts")


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
