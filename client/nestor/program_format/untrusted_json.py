"""JSON that anyone may have written: bounded before it is parsed, and held to what other readers of JSON agree on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import NoReturn, TypeAlias

from nestor.errors import ProgramInvalid, ProgramTooLarge, shown
from nestor.program_format.limits import MAX_JSON_LEVELS

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def parse_json(data: bytes, *, what: str, max_bytes: int, max_values: int) -> Json:
    """What `data` says.

    Args:
        what: names the data in messages, such as "its document".
        max_values: bound on the number of entries of all lists and objects.

    Raises:
        ProgramInvalid: `data` is above a limit, is not JSON, repeats a key, or holds a number that is not finite or an
            integer of more than 64 bits.
    """
    if len(data) > max_bytes:
        raise ProgramTooLarge(what=what, size=len(data), limit=max_bytes)
    # A megabyte of brackets becomes a hundred megabytes of lists, so they are counted while still bytes.
    if data.count(b"[") + data.count(b"{") + data.count(b",") > max_values:
        raise refused(f"{what} has more than {max_values:,} values")
    too_deep = f"{what} is nested deeper than {MAX_JSON_LEVELS} levels"
    try:
        parsed: Json = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise refused(too_deep) from None
    except UnicodeDecodeError:
        raise refused(f"{what} is not JSON in UTF-8") from None
    except ValueError as error:
        raise refused(f"{what} is not JSON as this format writes it ({shown(str(error))})") from error
    if _is_deep(parsed):
        raise refused(too_deep)
    return parsed


def refused(reason: str) -> ProgramInvalid:
    """The error for a program that does not follow the format; `reason` has no period at its end."""
    return ProgramInvalid(reason=reason)


def fields(json: Json, names: Iterable[str], where: str) -> dict[str, Json]:
    """`json`, which must be an object with exactly these fields.

    Raises:
        ProgramInvalid: it is anything else.
    """
    names = sorted(names)
    if not isinstance(json, dict) or sorted(json) != names:
        raise refused(f"{where} must be an object with the fields {', '.join(names)}, not {shown(json)}")
    return json


def list_of(json: Json, where: str) -> list[Json]:
    """`json`, which must be a list.

    Raises:
        ProgramInvalid: it is anything else.
    """
    if not isinstance(json, list):
        raise refused(f"{where} must be a list, not {shown(json)}")
    return json


def _is_deep(json: Json) -> bool:
    """Whether it has more than `MAX_JSON_LEVELS`; the parser's own bound depends on the caller's stack."""
    layer = [json]
    for _ in range(MAX_JSON_LEVELS):
        inner: list[Json] = []
        for item in layer:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        layer = inner
    return any(isinstance(item, list | dict) for item in layer)


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    made: dict[str, Json] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {shown(key)} occurs twice")
        made[key] = value
    return made


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError("an integer has more than 64 bits")
    return number


def _float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("a number is not finite")
    return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number in JSON")
