"""A hyperparameter as PNG: a grid of pictures, or a heat map of means."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy.orm import Session

from nestor.errors import EntryUnknown, PictureImpossible, PictureTooLarge
from nestor_server.models import Blob
from nestor_server.services.pictures import colors, heat_map
from nestor_server.services.pictures.positions import positions
from nestor_server.services.records import hyperparameters
from nestor_server.storage import blobs
from nestor_server.storage.number_check import decoded
from nestor_server.storage.safetensors_header import Tensor

VERSION = 1  # of how a picture is drawn; a part of its ETag
MAX_PIXELS = 2**20
MAX_PICTURES = 1024
SHOWN = 100  # pictures by default
MAX_BYTES = 256 * 2**20  # of a tensor that is read for a heat map
GAP = 1  # entries between two pictures


@dataclass(frozen=True)
class Picture:
    """What a PNG shows. Nothing but the header of the snapshot was read for it.

    Attributes:
        shown: the pictures of a grid, by their positions in the first dimension; None: a heat map.
        columns: pictures in a row of the grid.
        scale: pixels along an entry or a cell.
        low, high: the numbers of the darkest and the brightest level; None: they follow from the numbers.
        is_settled: as of the snapshot.
    """

    blob: Blob
    tensor: Tensor
    shown: tuple[int, ...] | None
    columns: int
    scale: int
    low: float | None
    high: float | None
    is_settled: bool

    @property
    def version(self) -> str:
        """Equal for equal bytes."""
        drawn = (VERSION, self.tensor, self.shown, self.columns, self.scale, self.low, self.high)
        return hashlib.sha256(f"{self.blob.digest} {drawn}".encode()).hexdigest()

    def png(self, session: Session) -> bytes:
        """The bytes of the file.

        Raises:
            RangeEmpty: `low` is not below `high`.
            BlobNotFound, Unavailable: as `blobs.read`.
        """
        if self.shown is None:
            image = Image.fromarray(colors.levels(heat_map.means(session, self.blob, self.tensor), self.low, self.high))
            image.putpalette(colors.viridis())
        else:
            image = grid(colors.levels(self._pictures(session), self.low, self.high), self.columns)
        return encoded(image, self.scale)

    def _pictures(self, session: Session) -> NDArray[Any]:
        """Shape (pictures, channels, height, width)."""
        assert self.shown is not None
        shape = picture_shape(self.tensor.shape)
        length = self.tensor.nbytes // self.tensor.shape[0]
        begins = [self.tensor.begin + at * length for at in self.shown]
        data = b"".join(blobs.gather(session, [(self.blob, begin, begin + length) for begin in begins]))
        return decoded(data, self.tensor.dtype).reshape(len(self.shown), *shape)


def picture(
    session: Session,
    owner_id: UUID,
    trial_id: UUID,
    name: str,
    *,
    step: int | None = None,
    index: str | None = None,
    columns: int | None = None,
    scale: int = 1,
    low: float | None = None,
    high: float | None = None,
) -> Picture:
    """A hyperparameter at a step, by default that of the latest snapshot, as a picture that can be drawn.

    Tensors of shape (n, h, w) and (n, 1 or 3, h, w) are grids of pictures. All others with a dimension are heat maps.

    Args:
        index: which pictures, such as "0:20" or "3,7"; by default the first ones, at most `SHOWN`.
        columns: pictures in a row; by default as many as rows.

    Raises:
        TrialNotFound
        HyperparametersNotFound: that step has no snapshot.
        HyperparameterUnknown: the trial has no hyperparameter of that name.
        PictureImpossible: the tensor is a scalar or empty, or `index` or `columns` are given for a heat map.
        EntryUnknown: `index` names pictures that do not exist.
        PictureTooLarge: more than `MAX_PIXELS` or `MAX_PICTURES`, or a heat map of more than `MAX_BYTES`.
    """
    found = hyperparameters.find(session, owner_id, trial_id, step)
    tensor = found.tensor(session, trial_id, name)
    shape = tensor.shape
    if not shape or not tensor.nbytes:
        raise PictureImpossible(
            name=name, shape=shape, reason="it has no dimensions" if not shape else "it has no entries"
        )
    shown: tuple[int, ...] | None = None
    if of_one := picture_shape(shape):
        _, h, w = of_one
        fit = max(1, MAX_PIXELS // ((h + GAP) * (w + GAP) * scale**2))
        shown = tuple(range(min(shape[0], SHOWN, fit))) if index is None else _positions(name, shape, index)
        if len(shown) > MAX_PICTURES:
            raise PictureTooLarge(n=len(shown), what="pictures", limit=MAX_PICTURES)
        columns = grid_columns(len(shown), h, w, columns, scale)
    else:
        if index is not None or columns is not None:
            raise PictureImpossible(name=name, shape=shape, reason="heat maps have neither index nor columns")
        if tensor.nbytes > MAX_BYTES:
            raise PictureTooLarge(n=tensor.nbytes, what="bytes to average", limit=MAX_BYTES)
        (height, width), columns = heat_map.cells(shape), 1
        _expect_pixels(height, width, scale)
    return Picture(found.blob, tensor, shown, columns, scale, low, high, found.is_settled)


def picture_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Channels, height and width of one picture; () if the tensor has none."""
    if len(shape) == 3:
        return (1, *shape[1:])
    return shape[1:] if len(shape) == 4 and shape[1] in (1, 3) else ()


def grid_columns(n: int, h: int, w: int, columns: int | None, scale: int) -> int:
    """Pictures in a row of the grid; by default as many as rows.

    Raises:
        PictureTooLarge: the grid has more than `MAX_PIXELS`.
    """
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    _expect_pixels(-(-n // columns) * (h + GAP) - GAP, columns * (w + GAP) - GAP, scale)
    return columns


def _expect_pixels(height: int, width: int, scale: int) -> None:
    if (pixels := height * width * scale**2) > MAX_PIXELS:
        raise PictureTooLarge(n=pixels, what="pixels", limit=MAX_PIXELS)


def _positions(name: str, shape: tuple[int, ...], text: str) -> tuple[int, ...]:
    """The pictures that `text` names, at most one more than `MAX_PICTURES`."""
    return positions(
        text, shape[0], MAX_PICTURES, lambda item: EntryUnknown(name=name, given=item, shape=shape, last=shape[0] - 1)
    )


def grid(pictures: NDArray[np.uint8], columns: int) -> Image.Image:
    """One image of pictures of shape (n, channels, h, w), with white lines between them."""
    n, channels, h, w = pictures.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (h + GAP) - GAP, columns * (w + GAP) - GAP, channels), 255, np.uint8)
    for i in range(n):
        top, left = i // columns * (h + GAP), i % columns * (w + GAP)
        canvas[top : top + h, left : left + w] = pictures[i].transpose(1, 2, 0)
    return Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas)


def encoded(image: Image.Image, scale: int) -> bytes:
    """The bytes of a PNG file, with so many pixels along each of the image."""
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
