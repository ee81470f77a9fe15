"""What a study can store: JSON without NaN, NUL, lone surrogates, integers of 2**63 and more, and deep nesting."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from nestor.errors import AttributesNotJson, AttributesTooLarge, shortened, shown

MAX_DEPTH = 64  # levels; Python cannot serialize much deeper documents
MAX_ATTRIBUTES_BYTES = 64_000  # of one study or trial, as JSON
MAX_KEY = 200  # characters of a key that a place shows
TEXT = "The text contains a character that cannot be stored", "Remove NUL characters and lone surrogates."


@dataclass(frozen=True)
class Fault:
    """A part of a document that cannot be stored, with a sentence about it and its remedy."""

    field: str
    message: str
    remedy: str

    def within(self, key: object) -> Fault:
        """The fault of a document that has the faulty one as its entry `key`."""
        field = shortened(str(key), MAX_KEY)
        return replace(self, field=f"{field}.{self.field}" if self.field else field)


def first_fault(field: str, value: object) -> Fault | None:
    """The first part of a JSON document that cannot be stored. `field` names the whole; "" for none."""
    fault = _fault(value, 0)
    return fault.within(field) if fault and field else fault


def _fault(value: object, depth: int) -> Fault | None:
    """As `first_fault`. The place is put together on the way back, so a document without a fault costs nothing else."""
    match value:
        case str():
            return None if is_storable(value) else Fault("", *TEXT)
        case float() if not math.isfinite(value):
            return Fault("", "The number is not finite", "Send a finite number, or omit the field.")
        case int() if abs(value) >= 2**63:
            return Fault("", "The number is too large", "Integers must be below 2**63; send larger ones as text.")
        case dict() | list() if depth == MAX_DEPTH:
            return Fault("", f"This is nested deeper than {MAX_DEPTH} levels", "Flatten the document.")
        case dict():
            for key, item in cast("dict[str, object]", value).items():
                if not is_storable(key):
                    return Fault("", *TEXT)
                if (fault := _fault(item, depth + 1)) is not None:
                    return fault.within(key)
        case list():
            for index, item in enumerate(cast("list[object]", value)):
                if (fault := _fault(item, depth + 1)) is not None:
                    return fault.within(index)
        case _:
            pass
    return None


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store `text`: no NUL, and all of it can be encoded."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_attributes(attrs: Mapping[str, Any] | None) -> dict[str, Any]:
    """What JSON makes of user attributes, so that every backend returns the same.

    Raises:
        AttributesNotJson: naming the first attribute that JSON cannot hold, with what to pass.
        AttributesTooLarge: they take more than `MAX_ATTRIBUTES_BYTES`.
    """
    if attrs is None:
        return {}
    if not isinstance(attrs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise AttributesNotJson(reason=f"user_attrs is {shown(attrs)}", advice="Pass a dict of names and values.")
    for key in attrs:
        expect_attribute_name(key)
    plain = {key: _plain(f"user_attrs[{shown(key, 40)}]", value, 0) for key, value in attrs.items()}
    for key, value in plain.items():
        if fault := first_fault(f"user_attrs[{shown(key, 40)}]", {key: value}):
            raise AttributesNotJson(reason=f"{fault.field}: {fault.message}", advice=fault.remedy)
    if (size := json_bytes(plain)) > MAX_ATTRIBUTES_BYTES:
        raise AttributesTooLarge(option="user_attrs", size=size, limit=MAX_ATTRIBUTES_BYTES)
    return json.loads(json.dumps(plain))


def json_bytes(document: object) -> int:
    """The size of a document as JSON in UTF-8, without spaces."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=str)
    return len(text.encode(errors="surrogatepass"))


def expect_attribute_name(name: object) -> None:
    """Check the name of a user attribute.

    Raises:
        AttributesNotJson: it is not a string.
    """
    if not isinstance(name, str):
        raise AttributesNotJson(reason=f"the name {shown(name)} is not a string", advice="Use strings as names.")


def one_attribute(key: str, value: Any) -> dict[str, Any]:
    """One user attribute, as JSON makes it.

    Raises:
        AttributesNotJson: the key is not a string, or JSON cannot hold the value.
        AttributesTooLarge: it alone takes more than all may.
    """
    expect_attribute_name(key)
    return json_attributes({key: value})


def merge_patch(target: object, patch: object) -> Any:
    """`target` changed by a JSON merge patch (RFC 7396): objects key by key, null removes, other values replace."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(cast("dict[str, Any]", target)) if isinstance(target, dict) else {}
    for key, value in cast("dict[str, Any]", patch).items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def _plain(where: str, value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise AttributesNotJson(reason=f"{where[:80]}… is nested too deeply", advice="Flatten it.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {
            _name(where, key): _plain(f"{where}[{shown(key, 40)}]", item, depth + 1)
            for key, item in cast("dict[object, object]", value).items()
        }
    if isinstance(value, list | tuple):
        items = cast("list[object] | tuple[object, ...]", value)
        return [_plain(f"{where}[{index}]", item, depth + 1) for index, item in enumerate(items)]
    raise AttributesNotJson(reason=f"{where} is of the type {type(value).__name__}", advice=_advice(value))


def _name(where: str, key: object) -> str:
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)  # as json writes them
    if not isinstance(key, str):
        reason = f"the name {shown(key)} in {where} is of the type {type(key).__name__}"
        raise AttributesNotJson(reason=reason, advice="Use strings as names.")
    return key


def _advice(value: object) -> str:
    if getattr(value, "shape", None) == ():
        return "Pass its Python number: value.item()."
    for method in ("tolist", "isoformat"):
        if callable(getattr(value, method, None)):
            return f"Pass value.{method}()."
    if isinstance(value, set | frozenset):
        return "Pass a list: sorted(value)."
    return "Pass numbers, strings, lists and dicts, or str(value)."
