"""The events of a trial, and the lines of its log."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from nestor.options.base import about
from nestor.schemas.base import Schema


class EventType(StrEnum):
    """What an event reports."""

    state = "state"
    step = "step"
    snapshot = "snapshot"
    log = "log"
    rewind = "rewind"  # steps after data["step"] are withdrawn
    end = "end"


class Event(Schema):
    """Something that happened to a trial."""

    seq: Annotated[int, about("increases from event to event; `end` repeats the last number", example=17)]
    type: Annotated[EventType, about("what the event reports")]
    data: Annotated[
        dict[str, Any],
        about("for type step, a step; else fields that depend on the type", example={"state": "running"}),
    ]


class EventPage(Schema):
    """The answer to a long poll."""

    items: Annotated[tuple[Event, ...], about("in order; empty if nothing happened while the server waited")]
    next_after: Annotated[int, about("pass it as `after` in the next request", example=17)]
    ended: Annotated[bool, about("whether the trial is finished and no event follows")]


class LogLevel(StrEnum):
    """How urgent a line of a trial's log is; each includes those after it."""

    info = "info"
    warning = "warning"


class LogLine(Schema):
    """A line of a trial's log."""

    seq: Annotated[int, about("its number among the trial's events", example=17)]
    at: Annotated[datetime, about("when it was recorded, in UTC")]
    level: Annotated[str, about("info or warning", example="info")]
    step: Annotated[int, about("the outer step that was taken before", unit="outer steps", example=12)]
    text: Annotated[str, about("one or more sentences", example="Curvature products are taken from a trace now.")]


class LogPage(Schema):
    """Some lines of a trial's log."""

    items: Annotated[tuple[LogLine, ...], about("in order; at most as many as `limit`, fewer if they are large")]
    next_after: Annotated[
        int | None, about("pass it as `after` to get the next page; null: this is the last page", example=17)
    ] = None
