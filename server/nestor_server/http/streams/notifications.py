"""Listens to PostgreSQL for trials with new events. A notification is a hint: readers also poll, if one is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID

import psycopg

from nestor_server.database import plain_url
from nestor_server.scheduling.event_log import CHANNEL
from nestor_server.settings import Settings

log = logging.getLogger(__name__)

MAX_RECONNECT_SECONDS = 5.0


async def listen(settings: Settings, notice: Callable[[UUID | None], None]) -> None:
    """Call `notice` with the id of each trial that has new events, until this task is cancelled.

    It has one connection per process, and connects again after failures. After each connect it calls `notice(None)`:
    any trial may have new events, because notifications may have been lost meanwhile.
    """
    pause = 0.1
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(
                plain_url(settings.database_url),
                autocommit=True,
                connect_timeout=5,
                application_name="nestor-listen",
                keepalives_idle=30,
            ) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                pause = 0.1
                notice(None)
                async for notification in connection.notifies():
                    notice(UUID(notification.payload))
        except (psycopg.Error, OSError) as error:
            log.warning("not listening: %s; streams poll meanwhile, next attempt in %.1f s", error, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, MAX_RECONNECT_SECONDS)
