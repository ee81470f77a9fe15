"""Parameters and dependencies that several routes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Depends, Header, Query, Request
from pydantic import Field

from nestor import schemas
from nestor_server.services.lists import paging
from nestor_server.settings import Settings

Limit = Annotated[int, Query(ge=1, le=paging.MAX_LIMIT, description="the most items of a page")]
Cursor = Annotated[
    str | None,
    Query(
        max_length=2_000,
        description="`next_cursor` of the previous page, with the same `sort` and `order`",
        examples=["IjAxOGYi"],
    ),
]
CursorOfOneOrder = Annotated[
    str | None, Query(max_length=2_000, description="`next_cursor` of the previous page", examples=["IjAxOGYi"])
]
Order = Annotated[
    schemas.SortOrder, Query(description="ascending or descending; entries without a value come last in both")
]
States = Annotated[Sequence[schemas.State], Query(description="only trials in this state; repeat it for several")]
Tags = Annotated[
    Sequence[schemas.Name],
    Query(
        max_length=20,
        description="only those with this tag; repeat it for those that have all of several",
        examples=[["baseline"]],
    ),
]
Text = Annotated[
    str | None,
    Query(
        max_length=200,
        description="only those that contain this text, in any case; % and _ stand for themselves",
        examples=["digits"],
    ),
]
After = Annotated[int, Query(ge=0, lt=2**63, description="the number after which to begin: `next_after`")]
StepNumber = Annotated[
    int | None, Query(ge=0, le=2**31 - 1, description="the latest recorded step by default", examples=[10])
]
CheckpointStep = Annotated[
    Literal["latest", "best"] | Annotated[int, Field(ge=0, le=2**31 - 1)],
    Query(description="the number of a step; or the latest, or the best by the study's metric"),
]

IfMatch = Annotated[
    str | None,
    Header(
        max_length=1_000,
        description="do nothing unless this is the present ETag; 412 if it is another one",
        examples=['"17-0-4"'],
    ),
]


async def _settings(request: Request) -> Settings:
    return request.app.state.settings


AppSettings = Annotated[Settings, Depends(_settings)]
