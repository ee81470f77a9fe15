"""Webhooks of a user: where notices about trials are sent. Their secrets are shown once."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import TooManyWebhooks, WebhookNotFound
from nestor.schemas import DeliveryStatus, WebhookEvent
from nestor.schemas.webhooks import TEST_EVENT
from nestor_server.database import settings_of
from nestor_server.models import User, Webhook, WebhookDelivery
from nestor_server.services import studies
from nestor_server.services.lists import paging
from nestor_server.webhooks import outbox, signing

MAX_WEBHOOKS = 10  # of one user
STORED = paging.stored_bytes(WebhookDelivery.data, WebhookDelivery.error)


def create(session: Session, owner_id: UUID, new: schemas.WebhookCreate) -> schemas.WebhookCreated:
    """Create a webhook. The return value is the only copy of its secret that a user gets.

    Raises:
        WebhooksDisabled, WebhookUrlInvalid, WebhookAddressRefused: no notice may be sent there.
        StudyNotFound
        TooManyWebhooks
    """
    settings_of(session).webhook_allow.expect(new.url)
    if new.study_id is not None:
        studies.find(session, owner_id, new.study_id)
    # Those of a user are created one after the other, so that they are counted.
    session.execute(select(User.id).where(User.id == owner_id).with_for_update(key_share=True))
    if session.scalars(select(func.count()).where(Webhook.owner_id == owner_id)).one() >= MAX_WEBHOOKS:
        raise TooManyWebhooks(limit=MAX_WEBHOOKS)
    secret = new.secret or signing.new_secret()
    events = list(dict.fromkeys(new.events))
    hook = Webhook(owner_id=owner_id, study_id=new.study_id, url=new.url, events=events, secret=secret)
    session.add(hook)
    session.flush()
    session.refresh(hook)
    return schemas.WebhookCreated(**describe(hook).model_dump(), secret=secret)


def page(session: Session, owner_id: UUID) -> schemas.Webhooks:
    """All webhooks of a user, oldest first."""
    own = select(Webhook).where(Webhook.owner_id == owner_id).order_by(Webhook.id)
    return schemas.Webhooks(items=tuple(describe(hook) for hook in session.scalars(own)))


def find(session: Session, owner_id: UUID, webhook_id: UUID) -> Webhook:
    """The table row of a webhook.

    Raises:
        WebhookNotFound: the user has no such webhook.
    """
    hook = session.scalars(select(Webhook).where(Webhook.id == webhook_id, Webhook.owner_id == owner_id)).one_or_none()
    if hook is None:
        raise WebhookNotFound(webhook=str(webhook_id))
    return hook


def change(session: Session, owner_id: UUID, webhook_id: UUID, patch: schemas.WebhookPatch) -> schemas.Webhook:
    """Change what is sent, or whether anything is.

    Raises:
        WebhookNotFound
    """
    hook = find(session, owner_id, webhook_id)
    if patch.events is not None:
        hook.events = list(dict.fromkeys(patch.events))
    if patch.enabled is not None:
        hook.enabled, hook.disabled_reason = patch.enabled, None
        if not patch.enabled:
            outbox.drop_pending(session, hook.id, why="its webhook was disabled")
    session.flush()
    return describe(hook)


def remove(session: Session, owner_id: UUID, webhook_id: UUID) -> None:
    """Delete a webhook and the notices that wait for it.

    Raises:
        WebhookNotFound
    """
    find(session, owner_id, webhook_id)
    session.execute(delete(Webhook).where(Webhook.id == webhook_id))


def test(session: Session, owner_id: UUID, webhook_id: UUID) -> schemas.WebhookDelivery:
    """Queue a notice without a trial, so that its user sees whether notices arrive.

    Raises:
        WebhookNotFound
    """
    hook = find(session, owner_id, webhook_id)
    sent = WebhookDelivery(webhook_id=hook.id, type=TEST_EVENT, data=schemas.WebhookTest().model_dump())
    session.add(sent)
    session.flush()
    session.refresh(sent)
    return _describe_delivery(sent)


def deliveries(session: Session, owner_id: UUID, webhook_id: UUID, limit: int) -> schemas.WebhookDeliveries:
    """The newest notices for a webhook.

    Raises:
        WebhookNotFound
    """
    find(session, owner_id, webhook_id)
    key = WebhookDelivery.id
    rows = select(key, STORED).where(WebhookDelivery.webhook_id == webhook_id).order_by(key.desc())
    index = paging.index(session, rows, limit)
    newest = index.arrange(session.scalars(select(WebhookDelivery).where(index.holds(key))), key)
    return schemas.WebhookDeliveries(items=tuple(map(_describe_delivery, newest)))


def describe(hook: Webhook) -> schemas.Webhook:
    """The webhook as the REST interface shows it, without its secret."""
    return schemas.Webhook(
        id=hook.id,
        url=hook.url,
        events=tuple(WebhookEvent(event) for event in hook.events),
        study_id=hook.study_id,
        enabled=hook.enabled,
        disabled_reason=hook.disabled_reason,
        succeeded_at=hook.succeeded_at,
        created_at=hook.created_at,
    )


def _describe_delivery(sent: WebhookDelivery) -> schemas.WebhookDelivery:
    pending = sent.status == DeliveryStatus.pending.value
    return schemas.WebhookDelivery(
        id=sent.id,
        type=sent.type,
        trial_id=sent.trial_id,
        data=sent.data,
        status=DeliveryStatus(sent.status),
        attempts=sent.attempts,
        next_attempt_at=sent.next_attempt_at if pending else None,
        http_status=sent.http_status,
        error=sent.error,
        created_at=sent.created_at,
        delivered_at=sent.delivered_at,
    )
