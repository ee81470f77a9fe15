"""Which columns are the arguments of the model's forward, and whether they fit its signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from nestor.errors import ArgumentInvalid, InputMissing, InputsTooMany, InputUnknown, shown
from nestor_engine.objective import Batch

Given = str | Sequence[str] | Mapping[str, str]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Inputs:
    """The arguments of a model.

    Attributes:
        positional: the columns that are given by position.
        named: argument → the column that is given by that name.
    """

    positional: tuple[str, ...]
    named: dict[str, str]

    @classmethod
    def of(cls, given: Given) -> Self:
        """The arguments from what a user passes: a column, columns in order, or argument → column.

        Raises:
            ArgumentInvalid: it is something else.
        """
        named: Mapping[Any, Any] = given if isinstance(given, Mapping) else {}
        positional: tuple[Any, ...] = ()
        if isinstance(given, str):
            positional = (given,)
        elif isinstance(given, Sequence):
            positional = tuple(given)
        if not (named or positional) or not all(
            isinstance(name, str) for name in (*named, *named.values(), *positional)
        ):
            expected = "a column, a list of columns, or a dict from arguments of the model's forward to columns"
            raise ArgumentInvalid(owner="Problem", argument="inputs", given=shown(given), expected=expected)
        return cls(positional, dict(named))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the model reads."""
        return (*self.positional, *self.named.values())

    def fitted(self, model: nn.Module) -> Inputs:
        """These arguments for calls of `model`: those that it takes by position only come first.

        Raises:
            InputUnknown: forward has no argument of that name.
            InputMissing: forward requires an argument that no column is given for.
            InputsTooMany: forward takes fewer arguments by position.
        """
        try:
            parameters = inspect.signature(model.forward).parameters
        except (TypeError, ValueError):  # a builtin without a signature
            return self
        if vars(model)["_forward_pre_hooks"]:  # which may add and remove arguments
            return self
        kinds = {parameter.kind for parameter in parameters.values()}
        by_position = [name for name, parameter in parameters.items() if parameter.kind in _POSITIONAL]
        only_position = [name for name in by_position if parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY]
        arguments = [name for name, p in parameters.items() if p.kind in (*_POSITIONAL, *_NAMED)]
        if len(self.positional) > len(by_position) and inspect.Parameter.VAR_POSITIONAL not in kinds:
            raise InputsTooMany(given=len(self.positional), arguments=arguments)
        if inspect.Parameter.VAR_KEYWORD not in kinds and (
            unknown := [name for name in self.named if name not in arguments]
        ):
            raise InputUnknown(argument=unknown[0], arguments=arguments)
        filled = {*by_position[: len(self.positional)], *self.named}
        required = [name for name in arguments if parameters[name].default is inspect.Parameter.empty]
        if missing := [name for name in required if name not in filled]:
            raise InputMissing(argument=missing[0], arguments=arguments)
        leading: list[str] = []
        for name in only_position[len(self.positional) :]:
            if name not in self.named:
                break
            leading.append(name)
        return Inputs(
            (*self.positional, *(self.named[name] for name in leading)),
            {name: column for name, column in self.named.items() if name not in leading},
        )

    def read(self, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments by position and by name."""
        return (
            tuple(batch[column] for column in self.positional),
            {argument: batch[column] for argument, column in self.named.items()},
        )
