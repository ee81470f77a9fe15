"""Cursors that name the last row seen, so that a page is found by its key however long the list is."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from nestor.errors import CursorInvalid

DEFAULT = 100
MOST = 1_000


def encode(key: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode(cursor: str, kind: type) -> Any:
    """
    Raises:
        InvalidInput: not one of our cursors.
    """
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise ValueError(key)
        return kind(key)
    except (ValueError, TypeError, binascii.Error):
        raise CursorInvalid() from None
