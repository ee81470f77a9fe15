"""/trials/{id}/events"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse

from nestor import schemas
from nestor_server.http.auth import Reader, Tx
from nestor_server.http.event_stream import EventStreams
from nestor_server.routes.parameters import After
from nestor_server.services.trials import queries

router = APIRouter(tags=["trials"])

MAX_WAIT_SECONDS = 25  # proxies tend to give up after 30


def _require_readable(trial_id: UUID, caller: Reader, session: Tx) -> None:
    queries.find(session, caller.user_id, trial_id)


@router.get(
    "/trials/{trial_id}/events",
    response_class=Response,  # EventSourceResponse would make FastAPI take the function for a generator
    responses={200: {"model": schemas.EventPage, "content": {"text/event-stream": {}}}},
)
async def events(
    trial_id: UUID,
    request: Request,
    _: Annotated[None, Depends(_require_readable)],
    after: After = 0,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**63 - 1)] = None,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False)] = 0,
) -> Response:
    """A trial's events after `Last-Event-ID` or `after`: a stream, or JSON after at most `wait` seconds.

    Each event comes once and in order of its id. `end` is the last one and holds the final state.
    """
    streams: EventStreams = request.app.state.event_streams
    after = last_event_id if last_event_id is not None else after
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept"}
    if _prefers_json(request):
        page = await streams.page(trial_id, after, wait)
        return JSONResponse(page.model_dump(mode="json"), headers=headers)
    return EventSourceResponse(streams.sse(trial_id, after), headers=headers)


def _prefers_json(request: Request) -> bool:
    accept = request.headers.get("Accept", "")
    return "application/json" in accept and "text/event-stream" not in accept
