"""A tensor as a matrix of means: it is read in pieces, so that its size does not matter for memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from nestor.program_format.safetensors_header import ITEM_BYTES
from nestor.schemas import CHUNK_BYTES
from nestor_server.models import Blob
from nestor_server.storage import blobs
from nestor_server.storage.number_check import decoded
from nestor_server.storage.safetensors_header import Tensor

MAX_ROWS = MAX_COLUMNS = 256  # cells of a matrix
MAX_STRIP = 1024  # cells of a vector, which is one row


def cells(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the map of a tensor with at least one dimension."""
    rows, columns = _matrix(shape)
    return (1, min(columns, MAX_STRIP)) if len(shape) == 1 else (min(rows, MAX_ROWS), min(columns, MAX_COLUMNS))


def means(session: Session, blob: Blob, tensor: Tensor) -> NDArray[np.float64]:
    """The mean of the entries in each cell. Rows are the first dimension, columns all others.

    Row r of n lies in the row r · cells // n, and columns likewise.

    Raises:
        BlobNotFound, Unavailable: as `blobs.read`.
    """
    rows, columns = _matrix(tensor.shape)
    height, width = cells(tensor.shape)
    of_row, of_column = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    sums = np.zeros((height, width))
    for row, column, numbers in _pieces(session, blob, tensor, rows, columns):
        down, right = of_row[row : row + numbers.shape[0]], of_column[column : column + numbers.shape[1]]
        by_column = np.add.reduceat(numbers, _starts(right), axis=1, dtype=np.float64)
        part = np.add.reduceat(by_column, _starts(down), axis=0)
        sums[down[0] : down[-1] + 1, right[0] : right[-1] + 1] += part
    counts = np.outer(np.bincount(of_row, minlength=height), np.bincount(of_column, minlength=width))
    return sums / counts


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return (1, shape[0]) if len(shape) == 1 else (shape[0], math.prod(shape[1:]))


def _pieces(
    session: Session, blob: Blob, tensor: Tensor, rows: int, columns: int
) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """The matrix as parts of at most `CHUNK_BYTES`: several rows, or a part of one. Each with its first position."""
    size = ITEM_BYTES[tensor.dtype]
    at_once = CHUNK_BYTES // size
    tall, wide = max(1, at_once // columns), min(columns, at_once)
    for row in range(0, rows, tall):
        for column in range(0, columns, wide):
            height, width = min(tall, rows - row), min(wide, columns - column)
            begin = tensor.begin + (row * columns + column) * size
            data = b"".join(blobs.read(session, blob, begin, begin + height * width * size))
            yield row, column, decoded(data, tensor.dtype).reshape(height, width)


def _starts(cell: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the positions of each cell begin."""
    return np.flatnonzero(np.diff(cell, prepend=-1))
