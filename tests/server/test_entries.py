"""Single entries of hyperparameters: exact values, few bytes read, and clear refusals."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save
from sqlalchemy import event, update
from sqlalchemy.engine import Engine

from nestor.schemas import HyperparameterInfo
from nestor_server.models import Snapshot
from nestor_server.scheduling import recording
from nestor_server.services.pictures import colors, heat_map, png
from nestor_server.services.records import entries
from nestor_server.storage import selection
from tests.server.conftest import Run, ok, problem


@contextmanager
def bytes_read() -> Iterator[list[int]]:
    """Collects the sizes of the binary values that statements return: pieces of blobs."""
    sizes: list[int] = []

    def wrapped(connection: Any, cursor: Any, *_: Any) -> None:
        for method in ("fetchone", "fetchall", "fetchmany"):
            original = getattr(cursor, method)

            def fetch(*args: Any, original: Any = original) -> Any:
                found = original(*args)
                rows = [found] if method == "fetchone" else found
                sizes.extend(
                    len(value) for row in rows if row for value in row if isinstance(value, bytes | memoryview)
                )
                return found

            setattr(cursor, method, fetch)

    event.listen(Engine, "after_cursor_execute", wrapped)
    try:
        yield sizes
    finally:
        event.remove(Engine, "after_cursor_execute", wrapped)
