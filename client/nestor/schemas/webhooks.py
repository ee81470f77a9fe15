"""Webhooks: where a server sends notices about trials, which notices, and what became of each."""

from __future__ import annotations

import base64
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from nestor.options.base import Flag, about
from nestor.schemas.base import Schema
from nestor.schemas.trials import State

SECRET_PREFIX = "whsec_"  # nosec B105 # what precedes each secret
_SECRET_BYTES = range(24, 65)  # lengths that Standard Webhooks allows


class WebhookEvent(StrEnum):
    """What a notice is about: that a trial has entered a state, or that its log has a warning."""

    queued = "trial.queued"
    running = "trial.running"
    paused = "trial.paused"
    complete = "trial.complete"
    pruned = "trial.pruned"
    failed = "trial.failed"
    cancelled = "trial.cancelled"
    warning = "trial.warning"


TEST_EVENT = "webhook.test"
DEFAULT_EVENTS = (*(WebhookEvent[state.name] for state in State if state.finished), WebhookEvent.warning)


class DeliveryStatus(StrEnum):
    """What became of a notice."""

    pending = "pending"
    delivered = "delivered"
    failed = "failed"


def secret_bytes(secret: str) -> bytes:
    """The key of signatures: the bytes behind `whsec_`, in base64.

    Raises:
        ValueError: it has another form.
    """
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError("no prefix")
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)


def _is_secret(secret: str) -> str:
    try:
        if len(secret_bytes(secret)) in _SECRET_BYTES:
            return secret
    except ValueError:
        pass
    raise PydanticCustomError("secret", "it must be whsec_ and 24 to 64 bytes in base64; omit it to get a new one")


_EVENTS = about("which notices are sent")
_STUDY = about("only trials of this study; null: of all your studies")
Secret = Annotated[str, StringConstraints(max_length=200), AfterValidator(_is_secret)]
Events = Annotated[tuple[WebhookEvent, ...], Field(min_length=1, max_length=len(WebhookEvent))]


class WebhookCreate(Schema):
    """A webhook to create."""

    url: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=2_000)],
        about(
            "where notices are sent by POST: an address that the server's operator allows",
            example="https://hooks.example.com/nestor",
        ),
    ]
    events: Annotated[Events, _EVENTS] = DEFAULT_EVENTS
    study_id: Annotated[UUID | None, _STUDY] = None
    secret: Annotated[
        Secret | None,
        about(
            "signs the notices: whsec_ and 24 to 64 bytes in base64; null: the server makes one",
            example="whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        ),
    ] = None


class WebhookPatch(Schema):
    """Changes to a webhook."""

    events: Annotated[Events | None, about("which notices are sent; null or left out: as before")] = None
    enabled: Annotated[
        Flag | None,
        about(
            "whether notices are sent; true starts again after the server has disabled it; null or left out: as before"
        ),
    ] = None


class Webhook(Schema):
    """A webhook without its secret."""

    id: Annotated[UUID, about("identifies the webhook in paths of the API")]
    url: Annotated[str, about("where notices are sent", example="https://hooks.example.com/nestor")]
    events: Annotated[tuple[WebhookEvent, ...], _EVENTS]
    study_id: Annotated[UUID | None, _STUDY]
    enabled: Annotated[bool, about("whether notices are sent")]
    disabled_reason: Annotated[
        str | None, about("why the server disabled it; null: it did not", example="the receiver answered 410 Gone")
    ]
    succeeded_at: Annotated[datetime | None, about("when it last took a notice, in UTC; null: never")]
    created_at: Annotated[datetime, about("in UTC")]


class WebhookCreated(Webhook):
    """A new webhook with its secret, which no other response contains."""

    secret: Annotated[
        str,
        about("the key of the signatures", example="whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
    ]


class Webhooks(Schema):
    """Your webhooks."""

    items: Annotated[tuple[Webhook, ...], about("oldest first")]


class WebhookDelivery(Schema):
    """A notice for a webhook, and what became of it."""

    id: Annotated[UUID, about("the header webhook-id, the same in each attempt")]
    type: Annotated[str, about("a webhook event, or webhook.test", example="trial.complete")]
    trial_id: Annotated[UUID | None, about("the trial; null: it is a test")]
    data: Annotated[dict[str, Any], about("what the notice says", example={"state": "complete", "number": 3})]
    status: Annotated[DeliveryStatus, about("pending: another attempt follows")]
    attempts: Annotated[int, about("attempts so far, with the one that is being made", ge=0, example=1)]
    next_attempt_at: Annotated[datetime | None, about("not before this time, in UTC; null: no attempt follows")]
    http_status: Annotated[int | None, about("of the last answer; null: it did not answer", example=200)]
    error: Annotated[str | None, about("why the last attempt failed", example="the receiver answered 503")]
    created_at: Annotated[datetime, about("in UTC")]
    delivered_at: Annotated[datetime | None, about("when the receiver took it, in UTC; null: it did not yet")]


class WebhookDeliveries(Schema):
    """The newest notices for a webhook."""

    items: Annotated[
        tuple[WebhookDelivery, ...], about("newest first, at most as many as `limit`, fewer if they are large")
    ]


class WebhookData(Schema):
    """What has happened to a trial."""

    trial_id: Annotated[UUID, about("the trial")]
    number: Annotated[int, about("its number in the study", example=3)]
    study_id: Annotated[UUID, about("its study")]
    study: Annotated[str, about("the name of the study", example="digits-l2")]
    seq: Annotated[int, about("number of the event in the trial's event log, which orders notices", example=812)]
    state: Annotated[State, about("the trial's state at this event")]
    step: Annotated[int, about("its last recorded step", unit="outer steps", example=120)]
    message: Annotated[
        str,
        about(
            "the sentence of the error or of the warning, or why the state has changed",
            example="all 500 steps are taken",
        ),
    ]
    path: Annotated[str, about("the trial in this API", example="/api/v1/trials/018f0000-0000-7000-8000-000000000000")]


class WebhookTest(Schema):
    """What a notice says that was asked for to try a webhook."""

    message: Annotated[str, about("a sentence", example="This is a test.")] = "This is a test."


class WebhookPayload(Schema):
    """The body of a notice. Its form is that of Standard Webhooks."""

    type: Annotated[str, about("a webhook event, or webhook.test", example="trial.failed")]
    timestamp: Annotated[datetime, about("when it happened, in UTC")]
    data: Annotated[WebhookData | WebhookTest, about("what happened; of webhook.test, a message")]
