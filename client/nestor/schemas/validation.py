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
        OptionInvalid: one field is wrong; it is raised as the class of that mistake.
        SchemaInvalid: several fields are wrong; `errors` lists them.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        found = mistakes(model, error)
        raise (found[0].error() if len(found) == 1 else as_error(found, SchemaInvalid)) from None
