"""Builds schemas from what a user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nestor.errors import SchemaInvalid
from nestor.options.sentences import explain

Model = TypeVar("Model", bound=BaseModel)


def build(model: type[Model], values: Mapping[str, Any]) -> Model:
    """A `model` of `values`, which a user gave.

    Raises:
        SchemaInvalid: naming each wrong field, its value and what it may hold.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise SchemaInvalid(reason=explain(model, error)) from None
