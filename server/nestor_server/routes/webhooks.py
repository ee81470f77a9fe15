"""/webhooks: notices about trials to other programs. All of it takes a write token: an address can hold a secret."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Response

from nestor import schemas
from nestor.schemas import API
from nestor_server.http.idempotency import Idempotency, PostResult
from nestor_server.http.openapi.responses import Described, conflict, problem
from nestor_server.http.transactions import TransactionRoute, Tx, Writer
from nestor_server.routes.parameters import Limit
from nestor_server.services import webhooks
from nestor_server.services.lists import paging

REFUSED: Described = {
    403: problem("The operator of this server allows no notices to this address, or the token's scope is too small."),
    404: problem("There is no such study."),
    **conflict("You have as many webhooks as a user may have, or the Idempotency-Key was used for another request."),
}

router = APIRouter(route_class=TransactionRoute, prefix="/webhooks", tags=["webhooks"])


@router.post("", status_code=201, response_model=schemas.WebhookCreated, responses=REFUSED)
def create_webhook(new: schemas.WebhookCreate, caller: Writer, session: Tx, idempotency: Idempotency) -> Response:
    """Send notices to an address that the server's operator allows. This response is the only one with the secret."""

    def create() -> PostResult:
        hook = webhooks.create(session, caller.user_id, new)
        return PostResult(hook, f"{API}/webhooks/{hook.id}")

    return idempotency.respond(session, caller, create)


@router.get("")
def list_webhooks(caller: Writer, session: Tx) -> schemas.Webhooks:
    """Your webhooks, without their secrets."""
    return webhooks.page(session, caller.user_id)


@router.get("/{webhook_id}")
def get_webhook(webhook_id: UUID, caller: Writer, session: Tx) -> schemas.Webhook:
    """One webhook: where it sends, what, and whether the server has disabled it."""
    return webhooks.describe(webhooks.find(session, caller.user_id, webhook_id))


@router.patch("/{webhook_id}")
def update_webhook(webhook_id: UUID, patch: schemas.WebhookPatch, caller: Writer, session: Tx) -> schemas.Webhook:
    """Change which notices are sent, or disable or enable the webhook. Disabling gives up the notices that wait."""
    return webhooks.change(session, caller.user_id, webhook_id, patch)


@router.delete("/{webhook_id}", status_code=204)
def delete_webhook(webhook_id: UUID, caller: Writer, session: Tx) -> None:
    """Delete a webhook, and the notices that wait for it."""
    webhooks.remove(session, caller.user_id, webhook_id)


@router.post("/{webhook_id}/test", status_code=202)
def test_webhook(webhook_id: UUID, caller: Writer, session: Tx) -> schemas.WebhookDelivery:
    """Send a notice of the type `webhook.test`. Its deliveries show whether it has arrived."""
    return webhooks.test(session, caller.user_id, webhook_id)


@router.get("/{webhook_id}/deliveries")
def list_webhook_deliveries(
    webhook_id: UUID, caller: Writer, session: Tx, limit: Limit = paging.DEFAULT_LIMIT
) -> schemas.WebhookDeliveries:
    """The newest notices, sent or waiting: attempts, the last answer, and when the next attempt follows."""
    return webhooks.deliveries(session, caller.user_id, webhook_id, limit)
