"""The space of a search: which of its names are options, which are the problem's, and what they may be."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nestor.errors import ArgumentInvalid, ConfigInvalid, OptionGivenTwice, OptionUnknown, SearchSpaceInvalid, shown
from nestor.options.base import Option
from nestor.options.config import Config, chosen

_DISTRIBUTION = (
    "pass one of optuna.distributions, such as FloatDistribution(1e-4, 1e-1, log=True), IntDistribution(1, 8) or "
    'CategoricalDistribution(["adam", "sgd"])'
)


class Space:
    """Distributions by name. Names of options, with dots for what lies inside of them, make configurations.

    Attributes:
        distributions: as Optuna takes them.
        example: one of the configurations.
    """

    def __init__(
        self, given: object, config: Config | None, options: Mapping[str, Any], *, problem_takes_values: bool
    ) -> None:
        """Check that each name is known, and that each bound and choice makes a configuration with some of the others.

        Args:
            given: what the user passed.
            config: the options that are not searched, and those inside of which others are.
            options: the same as keywords.
            problem_takes_values: whether names may also be the problem's own.

        Raises:
            SearchSpaceInvalid: a name is unknown, or a value cannot work.
            ConfigInvalid: the options that are not searched cannot work.
        """
        if not isinstance(given, Mapping) or not given:
            expected = 'names and distributions, such as {"inner.lr": FloatDistribution(1e-4, 1e-1, log=True)}'
            raise ArgumentInvalid(
                owner="study.search", argument="space", given=shown(cast(object, given)), expected=expected
            )
        self.distributions: dict[str, BaseDistribution] = {}
        for name, distribution in cast("Mapping[object, object]", given).items():
            self.distributions[str(name)] = _checked(name, distribution)
        for name in self.distributions.keys() & options.keys():
            raise OptionGivenTwice(option=name, first=f"{shown(options[name])} as a keyword", second="in the space")
        self._fixed = chosen(config, options)
        self._options = [name for name in self.distributions if name.partition(".")[0] in Config.model_fields]
        self._options.sort(key=lambda name: name.count("."))  # what lies inside of a choice is set after it
        for name in self.distributions.keys() - set(self._options):
            if "." in name:
                raise self._unknown(name, "there is no such option")
            if not problem_takes_values:
                reason = "it is not an option, and problem_fn takes no argument by which it could get a value"
                raise self._unknown(name, reason)
        self.example = self._checked_example()

    def config(self, values: Mapping[str, Any]) -> Config:
        """The configuration for one value of each name.

        Raises:
            ConfigInvalid: these values cannot work together.
        """
        fields = dict(self._fixed)
        for name in self._options:
            root, *path = name.split(".")
            if root == "outer_lr" and path:  # whose keys may have dots, too
                fields[root] = {**fields.get(root, {}), ".".join(path): values[name]}
            else:
                before = fields.get(root, Config.model_fields[root].default)
                fields[root] = _with(root, before, path, values[name])
        return Config(**fields)

    def _checked_example(self) -> Config:
        """Refuse a bound or choice that works neither with the first nor with the last values of the other names."""
        corners = {name: list(_corners(distribution)) for name, distribution in self.distributions.items()}
        others = [{name: values[end] for name, values in corners.items()} for end in (0, -1)]
        examples = [
            self._first_config([other | {name: value} for other in others])
            for name in self._options
            for value in corners[name]
        ]
        return examples[0] if examples else self.config({})

    def _first_config(self, candidates: list[dict[str, Any]]) -> Config:
        errors: list[ConfigInvalid] = []
        for values in candidates:
            try:
                return self.config(values)
            except ConfigInvalid as error:
                errors.append(error)
        raise self._about(errors[0])

    def _about(self, error: ConfigInvalid) -> ConfigInvalid:
        """The error to raise if no configuration has a value: about the name in the space, if it lies there."""
        field = str(error.context.get("field", "")) + "."
        name = next((name for name in self._options if f"{name}.".startswith(field)), None)
        if name is None or isinstance(error, SearchSpaceInvalid):
            return error
        if isinstance(error, OptionUnknown):
            return self._unknown(name, "there is no such option")
        return SearchSpaceInvalid(name=name, reason=str(error).rstrip("."))

    def _unknown(self, name: str, reason: str) -> SearchSpaceInvalid:
        known = [path for root, field in Config.model_fields.items() for path in self._paths(root, field.default)]
        close = difflib.get_close_matches(name, known, 1)
        advice = f"; the closest option is {close[0]!r}" if close else ""
        return SearchSpaceInvalid(name=name, reason=f"{reason}{advice}")

    def _paths(self, root: str, default: object) -> Iterator[str]:
        pending = [(root, self._fixed.get(root, default))]
        while pending:
            path, value = pending.pop()
            yield path
            if isinstance(value, Option):
                fields = dataclasses.fields(cast(Any, value))
                pending += [(f"{path}.{field.name}", getattr(value, field.name)) for field in fields]


def _checked(name: object, distribution: object) -> BaseDistribution:
    if not isinstance(name, str):
        raise SearchSpaceInvalid(name=shown(name), reason="it must be a string")
    if not isinstance(distribution, FloatDistribution | IntDistribution | CategoricalDistribution):
        raise SearchSpaceInvalid(name=name, reason=f"{shown(distribution)} is no distribution; {_DISTRIBUTION}")
    for choice in distribution.choices if isinstance(distribution, CategoricalDistribution) else ():
        plain = choice is None or isinstance(choice, bool | int | str)
        if not plain and not (isinstance(choice, float) and math.isfinite(choice)):
            reason = f"the choice {shown(choice)} cannot be recorded; pass strings, finite numbers, True, False or None"
            raise SearchSpaceInvalid(name=name, reason=reason)
    return distribution


def _corners(distribution: BaseDistribution) -> Iterator[Any]:
    if isinstance(distribution, CategoricalDistribution):
        yield from distribution.choices
    elif isinstance(distribution, FloatDistribution | IntDistribution):
        yield from (distribution.low, distribution.high)


def _with(where: str, before: object, path: list[str], value: object) -> object:
    """The option `before` as JSON, with the field at `path` set to `value`."""
    if not path:
        return value
    if before is None:
        reason = f"{where} is None, and so has no {path[0]!r}; pass an option as {where}, or leave this name out"
        raise SearchSpaceInvalid(name=".".join((where, *path)), reason=reason)
    head, *rest = path
    if isinstance(before, str):  # the short spelling of an option: its tag
        return {before: _with(where, {}, path, value)}
    fields: dict[str, Any] = {}
    if isinstance(before, Option):
        fields = {field.name: getattr(before, field.name) for field in dataclasses.fields(cast(Any, before))}
    elif isinstance(before, Mapping):
        fields = dict(cast("Mapping[str, Any]", before))
        if len(fields) == 1 and isinstance(fields.get(tag := next(iter(fields))), Mapping):  # {"sgd": {"lr": 0.1}}
            return {tag: _with(where, fields[tag], path, value)}
    return {**fields, head: _with(f"{where}.{head}", fields.get(head, {}), rest, value)}
