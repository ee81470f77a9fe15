"""Notices that wait to be sent. They are written with the event that they are about, so neither exists alone.

Any server process may send a notice. It takes one by moving its next attempt to after the longest that an attempt can
take. If the process ends meanwhile, another one makes that attempt, so a notice can arrive twice, with the same id.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, true, update
from sqlalchemy.orm import Session

from nestor import lifecycle
from nestor.schemas import API, DeliveryStatus, EventType, LogLevel, State, WebhookData, WebhookEvent
from nestor_server.models import Study, Trial, Webhook, WebhookDelivery

ATTEMPT_SECONDS = 15.0  # the longest that an attempt takes
TAKEN = timedelta(seconds=4 * ATTEMPT_SECONDS)  # after which another process may make the attempt
FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 4 * 3600.0
GIVE_UP_AFTER = timedelta(hours=24)
KEPT_FOR = timedelta(days=7)
MOST_KEPT = 10_000  # notices of one webhook
MESSAGE_CHARACTERS = 1_000

FIRST = UUID(int=0)  # before all webhooks
_PENDING = WebhookDelivery.status == DeliveryStatus.pending.value
_NO_SYNC = {"synchronize_session": False}


# --- written with an event ------------------------------------------------------------------------


def write(session: Session, trial_id: UUID, events: Iterable[dict[str, Any]]) -> None:
    """Write the notices about these events of a trial, for the webhooks of its owner that want them.

    Args:
        events: columns of `models.Event`: seq, type and data.
    """
    found = [(kind, event) for event in events if (kind := _kind(event["type"], event["data"])) is not None]
    if not found:
        return
    wanted = Webhook.events.overlap([kind.value for kind, _ in found])
    hooks = session.execute(
        select(
            Webhook.id, Webhook.events, Study.id.label("study_id"), Study.name, Trial.number, Trial.state, Trial.step
        )
        .join(Study, Study.id == Trial.study_id)
        .join(Webhook, Webhook.owner_id == Study.owner_id)
        .where(Trial.id == trial_id, Study.deleted_at.is_(None), Webhook.enabled, wanted)
        .where(or_(Webhook.study_id.is_(None), Webhook.study_id == Study.id))
    ).all()
    for hook in hooks:
        for kind, event in found:
            if kind.value in hook.events:
                data = WebhookData(
                    trial_id=trial_id,
                    number=hook.number,
                    study_id=hook.study_id,
                    study=hook.name,
                    seq=event["seq"],
                    state=State(event["data"].get("state", hook.state)),
                    step=hook.step,
                    message=_message(event["data"]),
                    path=f"{API}/trials/{trial_id}",
                ).model_dump(mode="json")
                session.add(WebhookDelivery(webhook_id=hook.id, trial_id=trial_id, type=kind.value, data=data))
    session.flush()


def _kind(type: str, data: dict[str, Any]) -> WebhookEvent | None:
    """What a notice about an event is called; None: no notice is sent."""
    if type == EventType.log.value and data.get("level") == LogLevel.warning.value:
        return WebhookEvent.warning
    # Other events of this type report what a user desires, and change no state.
    if type == EventType.state.value and ("attempt" in data or data.get("why") == lifecycle.WHY_SUBMITTED):
        return WebhookEvent[data["state"]]
    return None


def _message(data: dict[str, Any]) -> str:
    error: dict[str, Any] = data.get("error") or {}
    return str(error.get("detail") or data.get("text") or data.get("why") or "")[:MESSAGE_CHARACTERS]


# --- sent -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Notice:
    """A notice that this process has taken, with what its webhook says about it."""

    id: UUID
    webhook_id: UUID
    attempt: int
    type: str
    data: dict[str, Any]
    created_at: datetime
    url: str
    secret: str


def take(session: Session, n: int, *, sending: Collection[UUID] = (), after: UUID = FIRST) -> list[Notice]:
    """Take up to `n` notices that are due, one of each webhook, so that no receiver delays those of others.

    Args:
        sending: webhooks that this process sends to at the moment, which are left out.
        after: the webhook behind which to begin, so that all have their turn.
    """
    # The next webhook with a notice is looked up from the one before, so the outbox is not read as a whole.
    first = select(WebhookDelivery.webhook_id).where(_PENDING).order_by(WebhookDelivery.webhook_id).limit(1)
    begin = first.where(WebhookDelivery.webhook_id > after).subquery()
    hooks = select(begin).cte("webhooks_with_notices", recursive=True)
    following = first.where(WebhookDelivery.webhook_id > hooks.c.webhook_id).scalar_subquery()
    hooks = hooks.union_all(select(following).where(hooks.c.webhook_id.is_not(None)))
    head = select(WebhookDelivery.id).where(WebhookDelivery.webhook_id == hooks.c.webhook_id, _is_due())
    head = head.order_by(WebhookDelivery.next_attempt_at).limit(1).lateral()
    free = select(head.c.id).select_from(hooks.join(head, true())).where(hooks.c.webhook_id.not_in(sending))
    ids = session.scalars(free.limit(n)).all()
    locked = select(WebhookDelivery.id).where(WebhookDelivery.id.in_(ids), _is_due()).with_for_update(skip_locked=True)
    taken = session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_(session.scalars(locked).all()))
        .values(attempts=WebhookDelivery.attempts + 1, next_attempt_at=func.now() + TAKEN)
        .returning(
            WebhookDelivery.id,
            WebhookDelivery.webhook_id,
            WebhookDelivery.attempts,
            WebhookDelivery.type,
            WebhookDelivery.data,
            WebhookDelivery.created_at,
        )
        .execution_options(**_NO_SYNC)
    ).all()
    receivers = select(Webhook.id, Webhook.url, Webhook.secret).where(Webhook.id.in_([row.webhook_id for row in taken]))
    found = {row.id: row for row in session.execute(receivers)}
    return [
        Notice(*row, url=found[row.webhook_id].url, secret=found[row.webhook_id].secret)
        for row in taken
        if row.webhook_id in found  # else it was deleted a moment ago
    ]


def delivered(session: Session, notice: Notice, http_status: int) -> None:
    """Record that the receiver took the notice."""
    values = {"status": DeliveryStatus.delivered.value, "http_status": http_status, "error": None}
    if _record(session, notice, **values, delivered_at=func.now()):
        session.execute(_of(notice).values(succeeded_at=func.now()).execution_options(**_NO_SYNC))


def refused(session: Session, notice: Notice, reason: str, http_status: int | None, *, gone: bool = False) -> None:
    """Record why an attempt failed, and when the next one follows.

    No attempt follows later than `GIVE_UP_AFTER` the event. A webhook is then disabled if nothing has reached it since
    the event. It is disabled at once if its receiver says that it is gone for good.
    """
    delay = min(FIRST_RETRY_SECONDS * 2.0 ** (notice.attempt - 1), LONGEST_RETRY_SECONDS) * random.uniform(0.8, 1.2)
    following = func.now() + timedelta(seconds=delay)
    values: dict[str, Any] = {"http_status": http_status, "error": reason}
    given_up = gone or session.scalar(select(following > notice.created_at + GIVE_UP_AFTER))
    if not given_up:
        _record(session, notice, **values, next_attempt_at=following)
        return
    if not _record(session, notice, **values, status=DeliveryStatus.failed.value):
        return  # another process has taken it, and may deliver it
    unreached = or_(Webhook.succeeded_at.is_(None), Webhook.succeeded_at < notice.created_at)
    why = (
        reason
        if gone
        else f"no notice has arrived since {notice.created_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {reason}"
    )
    hook = _of(notice) if gone else _of(notice).where(unreached)
    disabled = session.scalars(
        hook.values(enabled=False, disabled_reason=why).returning(Webhook.id).execution_options(**_NO_SYNC)
    ).one_or_none()
    if disabled is not None:
        drop_pending(session, disabled, why="its webhook was disabled")


def drop_pending(session: Session, webhook_id: UUID, *, why: str) -> None:
    """Give up the notices that wait for a webhook."""
    waiting = update(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id, _PENDING)
    session.execute(waiting.values(status=DeliveryStatus.failed.value, error=why).execution_options(**_NO_SYNC))


def purge(session: Session) -> None:
    """Delete old notices, and of each webhook all but the newest `MOST_KEPT`, sent or not."""
    old = WebhookDelivery.created_at < func.now() - KEPT_FOR
    newest = select(WebhookDelivery.id).where(WebhookDelivery.webhook_id == Webhook.id)
    oldest_kept = newest.order_by(WebhookDelivery.id.desc()).offset(MOST_KEPT).limit(1).scalar_subquery()
    limits = select(Webhook.id.label("webhook_id"), oldest_kept.label("id")).subquery()
    session.execute(delete(WebhookDelivery).where(old).execution_options(**_NO_SYNC))
    beyond = and_(WebhookDelivery.webhook_id == limits.c.webhook_id, WebhookDelivery.id <= limits.c.id)
    session.execute(delete(WebhookDelivery).where(beyond).execution_options(**_NO_SYNC))


def _is_due() -> ColumnElement[bool]:
    return and_(_PENDING, WebhookDelivery.next_attempt_at <= func.now())


def _record(session: Session, notice: Notice, **values: Any) -> bool:
    """Whether the notice still is as this process took it. It may have been deleted, or taken over."""
    as_taken = (WebhookDelivery.id == notice.id, WebhookDelivery.attempts == notice.attempt, _PENDING)
    changed = update(WebhookDelivery).where(*as_taken).values(**values).returning(WebhookDelivery.id)
    return session.scalars(changed.execution_options(**_NO_SYNC)).one_or_none() is not None


def _of(notice: Notice) -> Any:
    return update(Webhook).where(Webhook.id == notice.webhook_id)
