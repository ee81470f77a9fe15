"""The application: REST interface, dashboard files, event streams and the reaper."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from importlib.resources import files as package_files

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from nestor_server import database, routes
from nestor_server.http import problem_documents
from nestor_server.http.event_stream import EventStreams, Listener
from nestor_server.http.middleware import RequestContextMiddleware
from nestor_server.scheduling.reaper import Reaper
from nestor_server.settings import Settings
from nestor_server.settings import settings as from_environment
from nestor_server.storage import object_store


def create_app(settings: Settings | None = None) -> FastAPI:
    """An ASGI application that connects to its database and broker when it starts.

    Args:
        settings: by default read from the environment.

    Raises:
        MissingExtra, InvalidInput: `settings.blob_url` cannot be used.
    """
    settings = settings or from_environment()
    if settings.blob_url is not None:
        object_store.open_store(settings.blob_url)  # fails now instead of at the first large upload
    engine = database.make_engine(settings, "nestor-server")
    sessions = database.make_sessions(engine, settings)
    listener = Listener(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        listening = asyncio.create_task(listener.run())
        reaper = Reaper(sessions, settings)
        reaper.start()
        try:
            yield
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            await asyncio.to_thread(reaper.stop)
            engine.dispose()

    app = FastAPI(
        title="Nestor",
        summary="Hyperparameter optimization by implicit differentiation",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from other hosts
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.sessions = sessions
    app.state.listener = listener
    app.state.event_streams = EventStreams(sessions, listener, settings)
    app.add_middleware(RequestContextMiddleware, settings=settings)
    problem_documents.install(app)
    app.include_router(routes.unversioned)
    app.include_router(routes.api)
    dashboard = package_files("nestor_server") / "dashboard"
    app.mount("/", StaticFiles(directory=str(dashboard), html=True))
    return app
