"""The options of a trial as flat rows with names such as `inner.lr`, beside their defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from nestor.options.base import Option
from nestor.schemas import OptionRow, TrialSpec

NO_OPTIONS = {"problem", "user_attrs"}  # fields of a specification


def flat_options(spec: TrialSpec) -> dict[str, Any]:
    """The options by name; an empty mapping leaves no entry."""
    return dotted(spec.model_dump(mode="json", exclude=NO_OPTIONS))


def option_table(spec: TrialSpec) -> tuple[OptionRow, ...]:
    """The options, first those that differ from their defaults, and each part by name."""
    defaults = dict(_defaults(spec, None, ""))
    rows = [
        OptionRow(
            name=name,
            value=value,
            default=defaults.get(name),
            is_default=name in defaults and defaults[name] == value,
        )
        for name, value in flat_options(spec).items()
    ]
    return tuple(sorted(rows, key=lambda row: (row.is_default, row.name)))


def dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dots between the parts of a name; an empty mapping leaves no entry."""
    row: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            row |= dotted(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            row[f"{prefix}{name}"] = value
    return row


def _defaults(chosen: Option | BaseModel, usual: object, prefix: str) -> Iterator[tuple[str, Any]]:
    """The defaults of the fields of what was chosen; fields that must be given have none.

    Args:
        usual: what has the defaults, if it is of the same class: `outer` is an RMSprop with a learning rate of its own.
    """
    fields: dict[str, FieldInfo] = cast("Any", type(chosen)).__pydantic_fields__
    for name, field in fields.items():
        value = getattr(chosen, name)
        default = getattr(usual, name) if type(usual) is type(chosen) else field.get_default(call_default_factory=False)
        if name == getattr(chosen, "tag_key", None):
            yield f"{prefix}{name}", usual.tag if isinstance(usual, Option) else None
        elif isinstance(value, Option | BaseModel):
            yield from _defaults(value, default, f"{prefix}{name}.")
        elif default is not PydanticUndefined:
            yield f"{prefix}{name}", to_jsonable_python(default)
