"""Chosen examples of a trial's data as a PNG grid."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from nestor.errors import PicturesNotFound
from nestor_server.services.pictures import colors, png
from nestor_server.services.problems import examples
from nestor_server.services.problems.examples import Split, SplitName


@dataclass(frozen=True)
class ExamplePictures:
    """What a PNG shows. No example was read for it.

    Attributes:
        column: whose rows are drawn.
        shape: channels, height and width of each.
        shown: the examples, by their positions in the split.
        columns: pictures in a row of the grid.
        scale: pixels along a number of a picture.
    """

    split: Split
    column: str
    shape: tuple[int, ...]
    shown: tuple[int, ...]
    columns: int
    scale: int
    is_settled = True  # the data of a trial never change

    @property
    def version(self) -> str:
        """Equal for equal bytes."""
        drawn = (png.VERSION, self.column, self.shape, self.shown, self.columns, self.scale)
        return hashlib.sha256(f"{self.split.columns.version} {drawn}".encode()).hexdigest()

    def png(self, session: Session) -> bytes:
        """The bytes of the file: black is the smallest number of these examples, and white the largest.

        Raises:
            BlobNotFound, Unavailable: as `blobs.read`.
        """
        (rows,) = self.split.columns.rows(session, [self.column], self.shown)
        levels = colors.levels(rows.reshape(-1, *self.shape), None, None, colors.WHOLE)
        return png.encoded(png.grid(levels, self.columns), self.scale)


def picture(
    session: Session,
    owner_id: UUID,
    trial_id: UUID,
    split: SplitName,
    index: str,
    *,
    column: str | None = None,
    columns: int | None = None,
    scale: int = 1,
) -> ExamplePictures:
    """Some examples as pictures that can be drawn.

    Args:
        column: by default the first one that can be drawn, by name.
        columns: pictures in a row; by default as many as rows.

    Raises:
        TrialNotFound, SplitNotFound, ExamplesNotStored, ExampleUnknown, TooManyEntries: as `examples.read`.
        PicturesNotFound: the column cannot be drawn, or none can.
        PictureTooLarge: the grid has too many pixels.
    """
    found = examples.find(session, owner_id, trial_id, split)
    shown, drawable = found.chosen(index), found.pictures
    if column is not None and column in found.elsewhere:
        raise examples.not_stored(split, column, found.elsewhere[column])
    chosen = next(iter(drawable), None) if column is None else column
    if chosen is None or chosen not in drawable:
        where = "" if column is None else f" in the column {column!r}"
        raise PicturesNotFound(split=split, where=where, columns=list(drawable), side=examples.MAX_SIDE)
    _, height, width = drawable[chosen]
    columns = png.grid_columns(len(shown), height, width, columns, scale)
    return ExamplePictures(found, chosen, drawable[chosen], shown, columns, scale)
