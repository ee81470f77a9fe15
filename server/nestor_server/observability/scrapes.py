"""Answers /metrics, reading the metrics at most once per second."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from typing import final

from fastapi import Request
from prometheus_client import Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from nestor.schemas import Scope
from nestor_server.database import Sessions
from nestor_server.http.callers import auth
from nestor_server.http.refreshed import Refreshed
from nestor_server.observability import database_metrics
from nestor_server.observability.metrics import Metrics
from nestor_server.settings import Settings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@final
class Scrapes:
    """The text of all metrics, and who may read it."""

    def __init__(self, metrics: Metrics, sessions: Sessions, settings: Settings) -> None:
        self._metrics, self._sessions, self._settings = metrics, sessions, settings
        self._text = Refreshed(self._write)
        self._one_check = asyncio.Lock()
        self._admitted: set[bytes] = set()  # hashes of admin tokens

    async def text(self, request: Request) -> bytes:
        """The metrics as of the last second, in Prometheus's text format.

        Raises:
            Unauthenticated, Forbidden: the request has no admin token, and `settings.metrics` is not "open".
        """
        if self._settings.metrics != "open":
            # One after the other, so that made-up tokens take no connection that /readyz needs.
            async with self._one_check:
                await asyncio.to_thread(self._admit, request)
        self._metrics.sample()
        return await self._text.get()

    def _admit(self, request: Request) -> None:
        """Check the token. While the database does not answer, tokens are as valid as they were.

        Then metrics are most needed, and nobody can revoke a token.
        """
        key = hashlib.sha256(auth.credentials(request).secret.encode()).digest()
        try:
            with self._sessions() as session:
                auth.authenticate(request, session, Scope.admin)
        except SQLAlchemyError:
            if key not in self._admitted:
                raise
        except BaseException:
            self._admitted.discard(key)
            raise
        else:
            self._admitted.add(key)

    def _write(self) -> bytes:
        return generate_latest(_All(self._metrics, self._sessions))


@final
class _All(Collector):
    def __init__(self, metrics: Metrics, sessions: Sessions) -> None:
        self._metrics, self._sessions = metrics, sessions

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        build = GaugeMetricFamily("nestor_build_info", "The version of Nestor.", labels=["version"])
        build.add_metric([version("nestor")], 1)
        return [build, *self._metrics.collect(), *database_metrics.collect(self._sessions)]
