"""Cursors: the key of a page's last row, so that an index finds the next page in a list of any length."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import TypeVar

from nestor.errors import CursorInvalid

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000

Key = TypeVar("Key")


def encode(key: str | int) -> str:
    """An opaque cursor for the page after the row with this key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode(cursor: str, parse: Callable[[str], Key]) -> Key:
    """The key that `encode` was given, read by `parse`, such as `int` or `UUID`.

    Raises:
        InvalidInput: the cursor was made by another list, or by something else.
    """
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise ValueError(key)
        return parse(str(key))
    except (ValueError, TypeError, binascii.Error):
        raise CursorInvalid() from None
