"""The application: REST interface, dashboard files, event streams and the reaper."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from importlib.resources import files as package_files

from fastapi import FastAPI
from sqlalchemy import Engine, QueuePool

from nestor_server import database, routes
from nestor_server.database import REQUEST_LIMITS, Sessions
from nestor_server.http import problem_documents
from nestor_server.http.admission import Gate
from nestor_server.http.callers.token_uses import TokenUses
from nestor_server.http.middleware import RequestContextMiddleware
from nestor_server.http.openapi.document import as_json, document
from nestor_server.http.pages import Pages
from nestor_server.http.refreshed import Refreshed
from nestor_server.http.streams import shutdown
from nestor_server.http.streams.event_stream import EventStreams
from nestor_server.http.streams.notifications import listen
from nestor_server.http.transactions import Transactions
from nestor_server.limits.rates import RequestRate
from nestor_server.observability import traces
from nestor_server.observability.metrics import Metrics
from nestor_server.observability.scrapes import Scrapes
from nestor_server.scheduling.reaper import Reaper
from nestor_server.services import readiness
from nestor_server.settings import Settings
from nestor_server.settings import settings as from_environment
from nestor_server.storage import object_store
from nestor_server.webhooks.delivery import MOST_AT_ONCE, Delivery

STREAM_THREADS = 2  # for opening streams, and as many for reading their events
MAX_OPENING_STREAMS = 10_000  # waiting to be opened
BODY_THREADS = 2  # for reading large JSON
WEBHOOK_THREADS = 2  # that take notices from the outbox and record what became of them


def create_app(settings: Settings | None = None) -> FastAPI:
    """An ASGI application that connects to its database and broker when it starts.

    Args:
        settings: by default read from the environment.

    Raises:
        MissingExtra, InvalidInput: as `validate`.
        DatabaseUnusable, SettingInvalid, WebhookAllowInvalid: a variable of the environment cannot be used.
    """
    settings = settings or from_environment()
    validate(settings)
    traces.start(settings, "nestor-server")
    parts = _Parts(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, float]]:
        async with parts.running():
            yield {"stall_seconds": settings.stall_seconds}  # for `nestor_server.connection`

    app = FastAPI(
        title="Nestor",
        summary="Hyperparameter optimization by implicit differentiation",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from other hosts
        openapi_url=None,  # FastAPI makes the document on the event loop, where it would delay all requests for seconds
        generate_unique_id_function=lambda route: route.name,  # names the operation, and so methods of clients
        root_path_in_servers=False,
        redoc_url=None,
        redirect_slashes=False,  # a redirected POST loses its body in some clients; the 404 names the path
    )
    app.state.settings = settings
    app.state.transactions = parts.transactions
    app.state.stream_transactions = parts.openings
    app.state.bodies = parts.bodies
    app.state.event_streams = parts.streams
    app.state.request_rate = RequestRate(settings.max_requests_per_minute)
    app.state.token_uses = parts.token_uses
    app.state.readiness = parts.readiness
    app.state.description = Refreshed(partial(as_json, app), valid_seconds=math.inf)
    app.state.scrapes = parts.scrapes
    app.add_middleware(RequestContextMiddleware, settings=settings, metrics=parts.metrics)
    traces.instrument(app, parts.request_engines)
    app.openapi = lambda: document(app)
    problem_documents.install(app)
    app.include_router(routes.unversioned)
    app.include_router(routes.api)
    dashboard = package_files("nestor_server") / "dashboard"
    app.router.default = Pages(directory=str(dashboard), html=True)
    return app


def validate(settings: Settings) -> None:
    """Fail now instead of at the first large upload or in a process that serves.

    Raises:
        MissingExtra, InvalidInput: `settings.blob_url` or `settings.traces` cannot be used.
    """
    traces.expect_installed(settings)
    if settings.blob_url is not None:
        object_store.open_store(settings.blob_url)


class _Parts:
    """What the routes use, in pools that do not wait for one another: requests, event streams, notices, and upkeep.

    Upkeep is the reaper and /readyz, with one connection each, and /metrics with two, one of which checks tokens. So
    load does not look like a failed database.
    """

    def __init__(self, settings: Settings) -> None:
        def pool(name: str, connections: int, limits: Mapping[str, str] = REQUEST_LIMITS) -> Sessions:
            engine = database.make_engine(settings, f"nestor-{name}", connections=connections, limits=limits)
            self._engines[name] = engine
            self.metrics.watch_pool(name, lambda: _in_use(engine), connections)
            return database.make_sessions(engine, settings)

        self._settings = settings
        self.metrics = Metrics()
        self._engines: dict[str, Engine] = {}
        requests = pool("server", settings.request_connections)
        streams = pool("streams", 2 * STREAM_THREADS)
        self._upkeep = pool("upkeep", 4, {})
        self.request_engines = [self._engines["server"], self._engines["streams"]]
        line = settings.max_waiting_requests
        self._gates = {
            "requests": Gate("requests", threads=settings.request_connections, line=line),
            "openings": Gate("stream-openings", threads=STREAM_THREADS, line=MAX_OPENING_STREAMS),
            "bodies": Gate("bodies", threads=BODY_THREADS, line=line),
            "reads": Gate("stream-reads", threads=STREAM_THREADS, line=MAX_OPENING_STREAMS),
            "webhooks": Gate("webhooks", threads=WEBHOOK_THREADS, line=MOST_AT_ONCE),
        }
        for gate in self._gates.values():
            self.metrics.watch_gate(gate)
        self.transactions = Transactions(requests, self._gates["requests"])
        self.bodies = self._gates["bodies"]
        self.openings = Transactions(streams, self._gates["openings"])
        self.streams = EventStreams(Transactions(streams, self._gates["reads"]), settings)
        self.token_uses = TokenUses(Transactions(streams, self._gates["reads"]))
        self.metrics.watch_streams(lambda: self.streams.n_open)
        self.readiness = Refreshed(partial(readiness.check, self._upkeep, settings))
        notices = Transactions(pool("webhooks", WEBHOOK_THREADS), self._gates["webhooks"])
        self._delivery = Delivery(notices, settings.webhook_allow)
        self.scrapes = Scrapes(self.metrics, self._upkeep, settings)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Listen for events, send notices and run the reaper, until the end."""
        tasks = [
            asyncio.create_task(listen(self._settings, self.streams.notice)),
            asyncio.create_task(self.streams.check()),
            asyncio.create_task(self.token_uses.record()),
            asyncio.create_task(self.metrics.keep_sampling()),
            asyncio.create_task(self._delivery.run()),
        ]
        reaper = Reaper(self._upkeep, self._settings)
        reaper.start()
        try:
            with shutdown.noticed(self.streams.close):
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.to_thread(reaper.stop)
            for gate in self._gates.values():
                gate.close()
            for engine in self._engines.values():
                engine.dispose()
            await asyncio.to_thread(traces.stop)


def _in_use(engine: Engine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()
