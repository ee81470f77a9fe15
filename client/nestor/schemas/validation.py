"""Builds schemas from what a user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nestor.errors import SchemaInvalid
from nestor.options.mistakes.sentences import as_error, mistakes

Model = TypeVar("Model", bound=BaseModel)


def build(model: type[Model], values: Mapping[str, Any]) -> Model:
    """A `model` of `values`, which a user gave.

    Raises:
        SchemaInvalid: naming each wrong field, its value and what it may hold.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise as_error(mistakes(model, error), SchemaInvalid) from None
