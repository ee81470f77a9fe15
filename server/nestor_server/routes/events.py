"""/trials/{id}/events"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse

from nestor import schemas
from nestor_server.http.openapi.responses import Described
from nestor_server.http.streams.event_stream import AwaitedJSON, EventStreams, Follower
from nestor_server.http.transactions import Reader, StreamRoute, Tx
from nestor_server.models import Trial
from nestor_server.routes.parameters import After
from nestor_server.services.trials import queries

router = APIRouter(route_class=StreamRoute, tags=["trials"])

MAX_WAIT_SECONDS = 25  # proxies tend to give up after 30
EVENT_STREAM, JSON = "text/event-stream", "application/json"
STREAM = {
    "schema": {"type": "string"},
    "itemSchema": {  # as OpenAPI 3.2 describes streams
        "type": "object",
        "description": "An event: its `seq` as `id`, its `type` as `event`, and its `data`.",
        "properties": {
            "id": {"type": "string"},
            "event": {"type": "string"},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
        "required": ["id", "event", "data"],
    },
    "example": 'id: 1\nevent: state\ndata: {"state": "queued"}\n\n',
}
EVENTS: Described = {
    200: {
        "model": schemas.EventPage,
        "description": "A stream, or one page as JSON.",
        "content": {JSON: {}, EVENT_STREAM: STREAM},
    }
}

LastEventId = Annotated[
    int | None, Header(ge=0, lt=2**63, description="as `after`, and before it: browsers send it", examples=[17])
]
Wait = Annotated[
    float | None,
    Query(
        ge=0,
        le=MAX_WAIT_SECONDS,
        allow_inf_nan=False,
        description="seconds to wait for the next event; asks for JSON",
        examples=[10],
    ),
]


@router.get(
    "/trials/{trial_id}/events",
    response_class=Response,  # EventSourceResponse would make FastAPI take the function for a generator
    responses=EVENTS,
)
def get_events(
    trial_id: UUID,
    request: Request,
    caller: Reader,
    session: Tx,
    after: After = 0,
    last_event_id: LastEventId = None,
    wait: Wait = None,
) -> Response:
    """A trial's events after `Last-Event-ID` or `after`: as a stream, or as one page of JSON.

    The answer is a stream if `Accept` names `text/event-stream`. Otherwise it is JSON if `Accept` names
    `application/json` or if `wait` is given, also with 0. Otherwise it is a stream.

    Each event comes once and in order of its id. `end` is the last one and holds the final state. A stream that breaks
    is resumed with the id of its last complete event, a list of pages with `next_after`. So nothing is lost or doubled,
    wherever it breaks.
    """
    streams: EventStreams = request.app.state.event_streams
    follower = Follower(caller.user_id, caller.credential_id, trial_id)
    seq = queries.read(session, caller.user_id, trial_id, Trial.seq).seq
    after = last_event_id if last_event_id is not None else after
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept"}
    is_json = _asks_for_json(request.headers.get("Accept", ""), wait)
    if wait or not is_json:
        streams.admit(caller.user_id)
    if is_json:
        return AwaitedJSON(lambda: streams.page(follower, after, seq, wait or 0), headers)
    return EventSourceResponse(streams.sse(follower, after, seq), headers=headers)


def _asks_for_json(accept: str, wait: float | None) -> bool:
    return EVENT_STREAM not in accept and (JSON in accept or wait is not None)
