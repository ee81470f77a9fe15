"""Celery messages to workers. Each only says that a trial waits.

Messages may be lost, repeated or late without harm: Postgres knows what is queued, and the reaper sends messages again.
A trial of an entry point has its message in a queue of its own, from which only workers with this entry point read.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from uuid import UUID

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy import event
from sqlalchemy.orm import Session

from nestor_server.database import settings_of
from nestor_server.scheduling import entry_points
from nestor_server.settings import Settings

log = logging.getLogger(__name__)

RUN_TRIAL = "nestor.run_trial"
QUEUE = "nestor"
_PENDING = "messages"


def queue_of(entry_point: str | None) -> str:
    """The queue for trials of an entry point; None for presets and programs, which all workers run."""
    return QUEUE if entry_point is None else f"{QUEUE}:{entry_point}"


def celery_app(settings: Settings) -> Celery:
    """The application with the broker `settings.redis_url`, one per process. It does not connect before it is used."""
    return _app(settings.redis_url)


@lru_cache(maxsize=8)
def _app(redis_url: str) -> Celery:
    app = Celery("nestor", broker=redis_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_acks_late=False,  # late acknowledgment runs a long job twice; the reaper replaces lost messages
        worker_disable_prefetch=True,
        task_ignore_result=True,
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],
        event_serializer="json",
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "max_retries": 1,  # to connect for sending; workers have another setting
            "interval_start": 0.1,
            "interval_step": 0,
        },
        worker_hijack_root_logger=False,
        task_publish_retry=False,  # a request must not wait for a broker that does not answer
    )
    return app


def send(settings: Settings, trial_id: UUID, queue: str = QUEUE) -> bool:
    """Send now. False if the broker does not answer; then the reaper sends the message again."""
    try:
        kwargs = {"trial_id": str(trial_id)}
        celery_app(settings).send_task(RUN_TRIAL, kwargs=kwargs, ignore_result=True, queue=queue)
    except (OperationalError, OSError) as error:
        log.warning("no message for trial %s, the reaper will send it: the broker does not answer: %s", trial_id, error)
        return False
    return True


def send_on_commit(session: Session, trial_id: UUID) -> None:
    """Send after the transaction is committed, so that workers find the trial."""
    queue = queue_of(entry_points.name_of(session, trial_id))  # no query is possible after the commit
    session.info.setdefault(_PENDING, []).append((trial_id, queue))


@event.listens_for(Session, "after_commit")
def _send_pending(session: Session) -> None:
    if session.in_nested_transaction():  # a savepoint was released; the transaction may still be rolled back
        return
    for trial_id, queue in session.info.pop(_PENDING, ()):
        send(settings_of(session), trial_id, queue)


@event.listens_for(Session, "after_rollback")
def _drop_pending(session: Session) -> None:
    if not session.in_nested_transaction():
        session.info.pop(_PENDING, None)
