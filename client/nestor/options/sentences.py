"""Says in one sentence which field of an option or a schema is wrong, and what it may hold."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from nestor.errors import shown

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "True or False",
    "string": "a string",
    "tuple": "a list",
    "dict": "a dictionary",
    "uuid": "a UUID",
}
ABSENT = ("extra_forbidden", "unexpected_keyword_argument")  # pydantic's words for a field that there is not
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class Place:
    """Where an error lies.

    Attributes:
        path: the location without the names of alternatives.
        siblings: the fields that the last part of it could be.
        annotations: what the field may hold.
        moved: what to write in place of a former field; None for others.
    """

    path: list[Any]
    siblings: list[str]
    annotations: list[Any]
    moved: str | None


def explain(model: Any, error: ValidationError, *, within: str = "") -> str:
    """What is wrong, one sentence for each field.

    Args:
        model: the schema or option that was to be made.
        within: the name of the option that the user wrote: `Neumann(terms=-1): …` in place of `terms=-1: …`.
    """
    sentences: dict[str, str] = {}
    for one in error.errors(include_url=False):
        place = walk(model, list(one["loc"]))
        field = ".".join(map(str, place.path))
        sentences.setdefault(field, _sentence(field, one, place, within))  # a union reports each alternative
    return " ".join(sentences.values())


def _sentence(field: str, error: ErrorDetails, place: Place, within: str) -> str:
    if error["type"] in ABSENT:
        start = f"{within}({field}={shown(error['input'])})" if within else field
        return f"{start}: {place.moved or 'there is no such option'}."
    if error["type"] in ("missing", "missing_argument"):
        return f"{field} is missing."
    if error["loc"][-1:] == ("[key]",):
        return f"{field}: the name {shown(error['input'])} must be a string."
    start = f"{field}={shown(error['input'])}" if field else ""
    if within:
        start = f"{within}({start})" if start else within
    return f"{start}{': ' if start else ''}{_expected(error, place.annotations)}."


def _expected(error: ErrorDetails, annotations: list[Any]) -> str:
    kind = error["type"].split("_")[0]
    limits: dict[str, Any] = {}
    for name, limit in limits_of(annotations):
        limits.setdefault(name, limit)
    bounds = " and ".join(f"{word} {limits[name]}" for name, word in BOUNDS.items() if name in limits)
    words = [word for one in annotations for word in words_of(one)]
    choice = "".join(f", or {word!r}" for word in words)
    if error["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"it must be {bounds}{choice}"
    if error["type"] in ("string_too_short", "string_too_long"):
        return f"it must have {limits.get('min_length', 0)} to {limits.get('max_length', 'any number of')} characters"
    if error["type"] == "literal_error":
        return f"it must be {error.get('ctx', {}).get('expected', 'one of the words that are allowed')}"
    if kind in _KINDS:
        return f"it must be {_KINDS[kind]}{f', {bounds}' if bounds else ''}{choice}"
    if error["type"] == "union_tag_invalid":
        return f"it must be one of {error.get('ctx', {}).get('expected_tags')}"
    if error["type"] in ("union_tag_not_found", "option_type"):
        return error["msg"].rstrip(".")
    if error["type"] == "dataclass_type":
        models = [model for one in annotations for model in _models(one)]
        return " or ".join(f"pass {model.expected}" for model in models)
    if error["type"] == "model_type":
        return f"it must be a {error.get('ctx', {}).get('class_name', 'dictionary')}"
    message = error["msg"].removeprefix("Value error, ").rstrip(".")
    return message.replace("Input should", "it should", 1)


def walk(annotation: Any, loc: list[Any]) -> Place:
    """Follow the location of an error from what was to be made.

    pydantic names the alternative of a union inside the location: ("inner", "adam", "lr") for `inner.lr`.
    """
    here, path, siblings = [annotation], list[Any](), list[str]()
    moved: str | None = None
    for part in loc:
        models = [model for one in here for model in _models(one)]
        named = [model for model in models if part == model.__name__ or part in _tags(model)]
        known = [annotation_of(_fields(model)[part]) for model in models if part in _fields(model)]
        if isinstance(part, str) and not known and named:
            here = list[Any](named)
            continue
        items = [item for one in here for item in _items(one)]
        if isinstance(part, str) and not known and not models and not items:
            continue  # the alternative of a union without models: a number, or a word
        path.append(part)
        siblings = sorted({name for model in models for name in _fields(model)})
        moved = next((model.moved[part] for model in models if part in getattr(model, "moved", {})), None)
        here = known if known or models else items
        if not isinstance(part, str):
            here = items
    return Place(path, siblings, here, moved)


def _fields(model: Any) -> Mapping[Any, FieldInfo]:
    return model.__pydantic_fields__


def annotation_of(field: FieldInfo) -> Any:
    """A field's annotation with its limits, which pydantic keeps apart."""
    annotation: Any = field.annotation
    for one in field.metadata:
        annotation = Annotated[annotation, one]
    return annotation


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or what an `Annotated` is made for."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return get_args(annotation)[:1]
    return get_args(annotation) if origin in (Union, types.UnionType) else ()


def plain_type(annotation: Any) -> Any:
    """What an `Annotated` is made for."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _models(annotation: Any) -> Iterator[Any]:
    """The schemas and options that a value of this annotation may be."""
    if isinstance(annotation, type):
        kind = cast(type[Any], annotation)
        if issubclass(kind, BaseModel) or getattr(kind, "tag", ""):
            yield kind
        yield from cast("dict[str, Any]", getattr(kind, "members", {})).values()  # of a family of options
    inside = get_args(annotation) if get_origin(annotation) in (tuple, list) else alternatives(annotation)
    for one in inside:
        yield from _models(one)


def _items(annotation: Any) -> Iterator[Any]:
    """What a container of this annotation holds."""
    origin = get_origin(annotation)
    if origin in (tuple, list):
        yield from (one for one in get_args(annotation) if one is not Ellipsis)
    elif origin is dict:
        yield get_args(annotation)[1]
    for one in alternatives(annotation):
        yield from _items(one)


def limits_of(annotations: list[Any]) -> Iterator[tuple[str, Any]]:
    for annotation in annotations:
        if get_origin(annotation) is Annotated:
            for one in get_args(annotation)[1:]:
                for limit in cast(list[Any], getattr(one, "metadata", None) or [one]):
                    for name in (*BOUNDS, "min_length", "max_length"):
                        if (value := getattr(limit, name, None)) is not None:
                            yield name, value
        yield from limits_of(list(alternatives(annotation)))


def words_of(annotation: Any) -> Iterator[Any]:
    """The words that a value may be instead of a number."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    for one in alternatives(annotation):
        yield from words_of(one)


def _tags(model: Any) -> set[Any]:
    """The words by which a model is chosen: those of its literal fields."""
    return {
        word
        for field in _fields(model).values()
        if get_origin(field.annotation) is Literal
        for word in get_args(field.annotation)
    }
