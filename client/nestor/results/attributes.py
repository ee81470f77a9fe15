"""User attributes as JSON holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

from nestor.errors import AttributesNotJson, shown

_NAMES = str | int | float | bool | None  # which JSON writes as text
_LEVELS = 32  # of nested values that are searched for a mistake


def plain(attrs: Mapping[str, Any] | None) -> dict[str, Any]:
    """What JSON makes of `attrs`, so that both backends give back the same.

    Raises:
        AttributesNotJson: naming the attribute that JSON cannot hold.
    """
    if attrs is None:
        return {}
    given: Any = attrs
    if not isinstance(given, Mapping):
        raise AttributesNotJson(reason=f"{shown(given)} is not a dictionary")
    held = dict(cast("Mapping[Any, Any]", given))
    try:
        text = json.dumps(held, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        reason = next(_mistakes("", held, _LEVELS), "they hold themselves, or are nested too deeply")
        raise AttributesNotJson(reason=reason) from error
    return json.loads(text)


def _mistakes(path: str, value: Any, levels: int) -> Iterator[str]:
    if levels == 0:
        return
    match value:
        case str():
            if not _encodable(value):
                yield f"{path} is {shown(value)}, which has characters that cannot be encoded"
        case float() if not math.isfinite(value):
            yield f"{path} is {value}"
        case bool() | int() | float() | None:
            pass
        case dict():
            for name, inner in cast("dict[Any, Any]", value).items():
                below = f"{path}.{name}" if path else f"the attribute {shown(name)}"
                if not isinstance(name, _NAMES):
                    yield f"the name {shown(name)} is a {type(name).__name__}"
                elif isinstance(name, str) and not _encodable(name):
                    yield f"the name {shown(name)} has characters that cannot be encoded"
                yield from _mistakes(below, inner, levels - 1)
        case list() | tuple():
            for number, inner in enumerate(cast("list[Any]", value)):
                yield from _mistakes(f"{path}.{number}", inner, levels - 1)
        case _:
            yield f"{path} is a {type(value).__name__}"


def _encodable(text: str) -> bool:
    return text.isascii() or text == text.encode("utf-8", "replace").decode()
