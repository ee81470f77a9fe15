"""A part of a tensor by indices and ranges of its leading dimensions, as NumPy writes them: `3,0:5`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nestor.errors import SliceInvalid, SliceTooFine
from nestor.program_format.safetensors_header import ITEM_BYTES
from nestor_server.storage.safetensors_header import Tensor

MAX_PIECES = 4096  # of consecutive bytes, each of which the database looks up

_INDEX = re.compile(r"[+-]?[0-9]{1,18}")
_RANGE = re.compile(r"([+-]?[0-9]{1,18})?:([+-]?[0-9]{1,18})?")


@dataclass(frozen=True)
class Selection:
    """Some positions of each dimension.

    Attributes:
        shape: of the part; a dimension with an index is gone.
        begins: offsets in the file of its pieces, in order.
        length: bytes of each piece.
    """

    shape: tuple[int, ...]
    begins: Sequence[int]
    length: int


def select(tensor: Tensor, text: str | None) -> Selection:
    """The part of a tensor that `text` names; None: all of it.

    Raises:
        SliceInvalid: it has another form, more dimensions than the tensor, or selects nothing.
        SliceTooFine: its bytes are in more than `MAX_PIECES` pieces.
    """
    shape, size = tensor.shape, ITEM_BYTES[tensor.dtype]
    items = [] if text is None else [item.strip() for item in text.split(",")]
    if len(items) > len(shape):
        raise SliceInvalid(given=text, reason=f"the tensor has the shape {shape}, with fewer dimensions")
    chosen = [_positions(item, dim, shape[dim]) for dim, item in enumerate(items)]
    ranges = [positions for positions, _ in chosen] + [range(length) for length in shape[len(items) :]]
    kept = tuple(len(positions) for dim, positions in enumerate(ranges) if dim >= len(items) or chosen[dim][1])
    # The last dimension that is not whole, and all behind it, are consecutive.
    parted = max((dim for dim, positions in enumerate(ranges) if len(positions) < shape[dim]), default=0)
    n = math.prod(len(positions) for positions in ranges[:parted])
    if n > MAX_PIECES:
        raise SliceTooFine(given=text, pieces=n, limit=MAX_PIECES)
    begins = [0]
    for dim, positions in enumerate(ranges[: parted + 1]):
        stride = math.prod(shape[dim + 1 :])
        starts = positions if dim < parted else positions[:1]
        begins = [begin + at * stride for begin in begins for at in starts]
    length = math.prod(len(positions) for positions in ranges[parted:])
    return Selection(kept, [tensor.begin + begin * size for begin in begins], length * size)


def _positions(item: str, dim: int, size: int) -> tuple[range, bool]:
    """The positions of a dimension, and whether the dimension stays."""
    if _INDEX.fullmatch(item):
        at = int(item) + (size if item.startswith("-") else 0)
        if not 0 <= at < size:
            raise SliceInvalid(given=item, reason=f"dimension {dim} has the positions 0 to {size - 1}")
        return range(at, at + 1), False
    match = _RANGE.fullmatch(item)
    if match is None:
        raise SliceInvalid(given=item, reason="it is neither an index nor a range without a step")
    start, stop = (None if end is None else int(end) for end in match.groups())
    positions = range(*slice(start, stop).indices(size))  # an end beyond the last position is the last one
    if not positions:
        raise SliceInvalid(given=item, reason=f"it selects nothing of dimension {dim}, which has {size} positions")
    return positions, True
