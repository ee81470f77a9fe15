"""Cursors: opaque texts that say where the next page of a list begins."""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from nestor.errors import CursorInvalid

Place = TypeVar("Place")


def encode(form: TypeAdapter[Place], place: Place) -> str:
    """The cursor of a place."""
    return base64.urlsafe_b64encode(form.dump_json(place)).decode().rstrip("=")


def decode(form: TypeAdapter[Place], cursor: str) -> Place:
    """The place that `encode` was given.

    Raises:
        CursorInvalid: it has another form.
    """
    try:
        return form.validate_json(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValidationError, ValueError, binascii.Error):
        raise CursorInvalid() from None
