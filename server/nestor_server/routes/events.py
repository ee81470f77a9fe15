"""/trials/{id}/events"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse

from nestor import schemas
from nestor_server.http.auth import Reader, Tx
from nestor_server.http.event_stream import Streams
from nestor_server.routes.parameters import After
from nestor_server.services.trials import queries as trial_queries

router = APIRouter(tags=["trials"])

LONGEST_WAIT = 25  # seconds: proxies tend to give up after 30


def _may_read(trial_id: UUID, me: Reader, session: Tx) -> None:
    trial_queries.find(session, me.user_id, trial_id)


@router.get(
    "/trials/{trial_id}/events",
    response_class=Response,  # not EventSourceResponse, which would take the answer for a generator
    responses={200: {"model": schemas.EventPage, "content": {"text/event-stream": {}}}},
)
async def events(
    trial_id: UUID,
    request: Request,
    _: Annotated[None, Depends(_may_read)],
    after: After = 0,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**63 - 1)] = None,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT, allow_inf_nan=False)] = 0,
) -> Response:
    """What happens to a trial, from `Last-Event-ID` or `after` on: a stream, or JSON after at most `wait` seconds.

    Each event comes once and in order of its id; `end` is the last one, and carries the final state.
    """
    streams: Streams = request.app.state.streams
    after = last_event_id if last_event_id is not None else after
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept"}
    if _prefers_json(request):
        page = await streams.page(trial_id, after, wait)
        return JSONResponse(page.model_dump(mode="json"), headers=headers)
    return EventSourceResponse(streams.sse(trial_id, after), headers=headers)


def _prefers_json(request: Request) -> bool:
    accept = request.headers.get("Accept", "")
    return "application/json" in accept and "text/event-stream" not in accept
