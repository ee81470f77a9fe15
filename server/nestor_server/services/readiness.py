"""Whether the parts that the server needs answer."""

from __future__ import annotations

from collections.abc import Callable

import redis
from sqlalchemy.exc import SQLAlchemyError

from nestor.errors import Unavailable
from nestor.schemas import Health
from nestor_server import revisions
from nestor_server.database import Sessions
from nestor_server.settings import Settings
from nestor_server.storage import object_store

BROKER_TIMEOUT_SECONDS = 2.0


def check(sessions: Sessions, settings: Settings) -> Health:
    """The result of each check: "ok", or a sentence."""
    checks = {
        "database": _outcome(lambda: _database(sessions)),
        "migrations": _outcome(lambda: _migrations(sessions)),
        "broker": _outcome(lambda: _broker(settings)),
    }
    if settings.blob_url is not None:
        checks["object store"] = _outcome(lambda: _objects(settings))
    ready = all(outcome == "ok" for outcome in checks.values())
    return Health(status="ok" if ready else "unavailable", checks=checks)


def _outcome(check: Callable[[], str]) -> str:
    try:
        return check()
    except (SQLAlchemyError, redis.RedisError, OSError, Unavailable):
        return "does not answer"


def _database(sessions: Sessions) -> str:
    with sessions() as session:
        session.connection().exec_driver_sql("SELECT 1")
    return "ok"


def _migrations(sessions: Sessions) -> str:
    with sessions() as session:
        at, expected = revisions.revision(session), revisions.head()
    return "ok" if at == expected else f"the database is at {at}, the code expects {expected}: run `nestor migrate`"


def _broker(settings: Settings) -> str:
    with redis.Redis.from_url(
        settings.redis_url, socket_timeout=BROKER_TIMEOUT_SECONDS, socket_connect_timeout=BROKER_TIMEOUT_SECONDS
    ) as broker:
        broker.ping()
    return "ok"


def _objects(settings: Settings) -> str:
    object_store.check(settings)
    return "ok"
