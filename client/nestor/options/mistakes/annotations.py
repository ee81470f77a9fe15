"""Follows the location of a mistake through annotations, to the field and to what it may hold."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

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


def walk(annotation: Any, loc: list[Any]) -> Place:
    """Follow the location of an error from what was to be made.

    pydantic names the alternative of a union inside the location: ("inner", "adam", "lr") for `inner.lr`.
    """
    here, path, siblings = [annotation], list[Any](), list[str]()
    moved: str | None = None
    for part in loc:
        models = [model for one in here for model in models_of(one)]
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
        moved = next((model.former[part] for model in models if part in getattr(model, "former", {})), None)
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


def models_of(annotation: Any) -> Iterator[Any]:
    """The schemas and options that a value of this annotation may be."""
    if isinstance(annotation, type):
        kind = cast(type[Any], annotation)
        if issubclass(kind, BaseModel) or getattr(kind, "tag", ""):
            yield kind
        yield from cast("dict[str, Any]", getattr(kind, "members", {})).values()  # of a family of options
    inside = get_args(annotation) if get_origin(annotation) in (tuple, list) else alternatives(annotation)
    for one in inside:
        yield from models_of(one)


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
    """The limits of numbers and lengths, as ("ge", 0); those of the outermost annotation first."""
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
