"""The reference page of all options: `python -m nestor.options.reference > docs/options.md`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, cast, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from nestor.options.base import OPTIONS, Option
from nestor.options.config import Config
from nestor.options.mistakes.annotations import BOUNDS, annotation_of, limits_of, plain_type

INTRODUCTION = """# Options

Every option of `study.optimize` and of `POST /api/v1/studies/{id}/trials`, with its range and default. This page is
written by `python -m nestor.options.reference` from the declarations in `client/nestor/options`; do not edit it.

In Python an option is a class of `nestor`, such as `nestor.Neumann(terms=3)`, which needs no torch. In JSON it is an
object with a tag, such as `{"kind": "neumann", "terms": 3}`. `{"neumann": {"terms": 3}}` and `"neumann"` are short for
it.
"""


WORDS: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text"}
ORDER = ("Response", "Curvature", "Solver", "Preconditioner", "Optimizer", "Schedule")


def reference() -> str:
    """The page, as Markdown."""
    parts = [INTRODUCTION, _section("Config", Config, "The fields of a trial's configuration.", level=2)]
    alone = [cls for cls in OPTIONS.values() if not cls.families() and cls.is_public]
    parts += [_section(cls.__name__, cls, _first(cls), level=2) for cls in alone]
    written: set[type[Option]] = set()
    for family in sorted(families(), key=lambda family: ORDER.index(family.__name__)):
        parts.append(f"## {family.__name__}\n\n{_first(family)}\n")
        for cls in family.members.values():
            if cls in written:
                parts.append(f"### {cls.__name__}, as above\n")
            else:
                written.add(cls)
                parts.append(_section(cls.__name__, cls, _with_tag(cls, family), level=3))
    return "\n".join(parts)


def families() -> Iterator[type[Option]]:
    """Each family of public options once, without those that are a part of another."""
    found = (_widest(family) for cls in OPTIONS.values() if cls.is_public for family in cls.families())
    yield from dict.fromkeys(found)


def _widest(family: type[Option]) -> type[Option]:
    """The family that `family` is a part of: of solvers that can be warm-started, all solvers."""
    above = family.__mro__[1]
    return _widest(above) if issubclass(above, Option) and above is not Option else family


def _with_tag(cls: type[Option], family: type[Option]) -> str:
    tag = f'`{{"{family.tag_key}": "{cls.tag}"}}`'
    return f"{tag}\n\n{_first(cls)}"


def _first(cls: type[Any]) -> str:
    """The first paragraph of the docstring, on one line, without marks of citations."""
    paragraph = (inspect.getdoc(cls) or "").split("\n\n")[0]
    return re.sub(r" \[\d[\d, ]*\]", "", " ".join(paragraph.split()))


def _section(name: str, cls: type[Any], text: str, *, level: int) -> str:
    fields = cast("dict[str, FieldInfo]", cls.__pydantic_fields__)
    rows = [_row(field, info) for field, info in fields.items() if field != getattr(cls, "tag_key", None)]
    table = ["| field | values | default | meaning |", "|---|---|---|---|", *rows] if rows else ["It has no fields."]
    return "\n".join([f"{'#' * level} {name}", "", text, "", *table, ""])


def _row(name: str, field: FieldInfo) -> str:
    default = "required" if field.default is PydanticUndefined else f"`{_written(field.default)}`"
    extra = cast("dict[str, Any]", field.json_schema_extra or {})
    unit = f" ({extra['unit']})" if "unit" in extra else ""
    return f"| `{name}` | {_values(annotation_of(field))}{unit} | {default} | {field.description} |"


def _written(value: Any) -> str:
    """A default, as a user would write it: without what is a default itself."""
    if isinstance(value, Option):
        fields = dataclasses.fields(cast(Any, value))
        given = [(f.name, getattr(value, f.name)) for f in fields if f.repr and getattr(value, f.name) != _default(f)]
        return f"{type(value).__name__}({', '.join(f'{name}={_written(one)}' for name, one in given)})"
    return repr(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default.default if isinstance(field.default, FieldInfo) else field.default


def _values(annotation: Any) -> str:
    """What a field may hold."""
    inner = plain_type(annotation)
    if get_origin(inner) in (Union, types.UnionType):
        return ", or ".join(_values(one) for one in get_args(inner))
    if inner is None or inner is type(None):
        return "null"
    if get_origin(inner) is Literal:
        return ", ".join(f"`{word!r}`" for word in get_args(inner))
    if get_origin(inner) in (tuple, list):
        return "list of: " + ", ".join(_values(one) for one in get_args(inner) if one is not Ellipsis)
    if get_origin(inner) is dict:
        return f"name → {_values(get_args(inner)[1])}"
    if isinstance(inner, type) and issubclass(inner, Option):
        name = inner.__name__ if inner.tag else _widest(inner).__name__
        return f"[{name}](#{name.lower()})"
    name = WORDS[inner]
    limits = dict[str, Any](reversed(list(limits_of([annotation]))))
    bounds = " and ".join(f"{word} {limits[key]:,}" for key, word in BOUNDS.items() if key in limits)
    return f"{name}, {bounds}" if bounds else name


if __name__ == "__main__":
    print(reference(), end="")
