"""Chosen examples of a trial's data, as a page shows them beside their weights."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nestor.options.base import about
from nestor.schemas.base import Schema

MOST_EXAMPLES = 100  # of an answer
MOST_SCALAR_COLUMNS = 32


class Examples(Schema):
    """Chosen examples of a split: their columns of single numbers, such as labels, and which columns are pictures."""

    split: Annotated[str, about("train, val or test", example="train")]
    n: Annotated[int, about("examples in the split", unit="examples", example=1_000)]
    index: Annotated[tuple[int, ...], about("their positions in the split, as requested", example=[17, 3])]
    columns: Annotated[
        dict[str, list[int | float]],
        about(
            f"for each column with one number for each example, those of the chosen examples; the first "
            f"{MOST_SCALAR_COLUMNS} by name",
            example={"y": [4, 9]},
        ),
    ]
    pictures: Annotated[
        dict[str, Annotated[tuple[int, ...], Field(min_length=3, max_length=3)]],
        about(
            "columns whose examples can be drawn, with channels, height and width; a float vector whose length is a "
            "square number from 16 is taken for a square picture",
            example={"x": [1, 8, 8]},
        ),
    ]
