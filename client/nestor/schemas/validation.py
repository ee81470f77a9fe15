"""Builds schemas from what a user wrote, and says in one sentence which field is wrong and what it may hold."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from nestor.errors import SchemaInvalid, shown

Model = TypeVar("Model", bound=BaseModel)

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
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def build(model: type[Model], values: Mapping[str, Any], *, names: Mapping[str, str] | None = None) -> Model:
    """A `model` of `values`, which a user gave.

    Args:
        names: what the user calls a field, where that differs from the schema: {"outer.steps": "n_steps"}.

    Raises:
        SchemaInvalid: naming each wrong field, its value and what it may hold.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise SchemaInvalid(reason=explain(model, error, names=names)) from None


def explain(model: type[BaseModel], error: ValidationError, *, names: Mapping[str, str] | None = None) -> str:
    """What is wrong, one sentence for each field."""
    sentences: dict[str, str] = {}
    for one in error.errors(include_url=False):
        path, _, found = walk(model, list(one["loc"]))
        field = ".".join(map(str, path))
        field = (names or {}).get(field, field)
        sentences.setdefault(field, _sentence(field, one, found))  # a union reports each alternative
    return " ".join(sentences.values())


def _sentence(field: str, error: ErrorDetails, annotations: list[Any]) -> str:
    if error["type"] == "extra_forbidden":
        return f"{field}: there is no such option."
    if error["type"] == "missing":
        return f"{field} is missing."
    if error["loc"][-1:] == ("[key]",):
        return f"{field}: the name {shown(error['input'])} must be a string."
    start = f"{field}={shown(error['input'])}: " if field else ""
    return f"{start}{_expected(error, annotations)}."


def _expected(error: ErrorDetails, annotations: list[Any]) -> str:
    kind = error["type"].split("_")[0]
    limits: dict[str, Any] = {}
    for name, limit in _limits(annotations):
        limits.setdefault(name, limit)
    bounds = " and ".join(f"{word} {limits[name]}" for name, word in _BOUNDS.items() if name in limits)
    words = [word for one in annotations for word in _words(one)]
    choice = "".join(f", or {word!r}" for word in words)
    if error["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"it must be {bounds}{choice}"
    if error["type"] in ("string_too_short", "string_too_long"):
        return f"it must have {limits.get('min_length', 0)} to {limits.get('max_length', 'any number of')} characters"
    if error["type"] == "literal_error":
        return f"it must be {error.get('ctx', {}).get('expected', 'one of the words that are allowed')}"
    if kind in _KINDS:
        return f"it must be {_KINDS[kind]}{f', {bounds}' if bounds else ''}{choice}"
    if error["type"] == "model_type":
        return f"it must be a {error.get('ctx', {}).get('class_name', 'dictionary')}"
    message = error["msg"].removeprefix("Value error, ").rstrip(".")
    return message.replace("Input should", "it should", 1)


def walk(annotation: Any, loc: list[Any]) -> tuple[list[Any], list[str], list[Any]]:
    """The location without the names of alternatives, the fields that its last part could be, and its annotations.

    pydantic names the alternative of a union inside the location: ("inner", "adam", "lr") for `inner.lr`.
    """
    here, path, siblings = [annotation], list[Any](), list[str]()
    for part in loc:
        models = [model for one in here for model in _models(one)]
        named = [model for model in models if part == model.__name__ or part in _tags(model)]
        known = [_annotation(model.model_fields[part]) for model in models if part in model.model_fields]
        if isinstance(part, str) and not known and named:
            here = list[Any](named)
            continue
        items = [item for one in here for item in _items(one)]
        if isinstance(part, str) and not known and not models and not items:
            continue  # the alternative of a union without models: a number, or a word
        path.append(part)
        siblings = sorted({name for model in models for name in model.model_fields})
        here = known if known or models else items
        if not isinstance(part, str):
            here = items
    return path, siblings, here


def _annotation(field: FieldInfo) -> Any:
    """A field's annotation with its limits, which pydantic keeps apart."""
    annotation: Any = field.annotation
    for one in field.metadata:
        annotation = Annotated[annotation, one]
    return annotation


def _inside(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or what an `Annotated` is made for."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return get_args(annotation)[:1]
    return get_args(annotation) if origin in (Union, types.UnionType) else ()


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value of this annotation may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    inside = get_args(annotation) if get_origin(annotation) in (tuple, list) else _inside(annotation)
    for one in inside:
        yield from _models(one)


def _items(annotation: Any) -> Iterator[Any]:
    """What a container of this annotation holds."""
    origin = get_origin(annotation)
    if origin in (tuple, list):
        yield from (one for one in get_args(annotation) if one is not Ellipsis)
    elif origin is dict:
        yield get_args(annotation)[1]
    for one in _inside(annotation):
        yield from _items(one)


def _limits(annotations: list[Any]) -> Iterator[tuple[str, Any]]:
    for annotation in annotations:
        if get_origin(annotation) is Annotated:
            for one in get_args(annotation)[1:]:
                for limit in cast(list[Any], getattr(one, "metadata", None) or [one]):
                    for name in (*_BOUNDS, "min_length", "max_length"):
                        if (value := getattr(limit, name, None)) is not None:
                            yield name, value
        yield from _limits(list(_inside(annotation)))


def _words(annotation: Any) -> Iterator[Any]:
    """The words that a value may be instead of a number."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    for one in _inside(annotation):
        yield from _words(one)


def _tags(model: type[BaseModel]) -> set[Any]:
    """The words by which a model is chosen: those of its literal fields."""
    return {
        word
        for field in model.model_fields.values()
        if get_origin(field.annotation) is Literal
        for word in get_args(field.annotation)
    }
