"""The options of a trial, one by one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from nestor.options.base import about
from nestor.schemas.base import Schema


class OptionRow(Schema):
    """One option of a trial."""

    name: Annotated[str, about("as in the specification, with dots between its parts", example="inner.lr")]
    value: Annotated[Any, about("as submitted, or its default", example=0.01)]
    default: Annotated[
        Any,
        about(
            "what it is if nobody chooses: of an alternative, such as an optimizer, that of the one that was chosen; "
            "null also if it must be given",
            example=0.001,
        ),
    ]
    is_default: Annotated[bool, about("whether the value is the default; false if it must be given")]


class ProblemSummary(Schema):
    """What a trial tunes, in short."""

    kind: Annotated[Literal["preset", "program", "entry_point"], about("where the problem comes from")]
    name: Annotated[
        str, about("the data set of a preset, the digest of a program's graphs, or the entry point", example="digits")
    ]
    parameters: Annotated[
        int | None, about("how many numbers the model's parameters have; null: unknown", example=2410)
    ]
    hyperparameters: Annotated[
        int | None, about("how many numbers are tuned; null: no worker has built the problem yet", example=2410)
    ]


class TrialOptions(Schema):
    """All options of a trial, and what it tunes."""

    problem: Annotated[ProblemSummary, about("what it tunes")]
    items: Annotated[tuple[OptionRow, ...], about("first those that differ from their defaults, and each part by name")]
