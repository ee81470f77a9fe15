"""The server: the REST interface, the dashboard's files, the streams and the reaper, put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.resources import files as package_files

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from nestor_server import database, routes
from nestor_server.http import problems
from nestor_server.http.event_stream import Listener, Streams
from nestor_server.http.middleware import Surroundings
from nestor_server.scheduling.reaper import Reaper
from nestor_server.settings import Settings
from nestor_server.settings import settings as from_environment
from nestor_server.storage import object_store


def create_app(settings: Settings | None = None) -> FastAPI:
    settings = settings or from_environment()
    if settings.blob_url is not None:
        object_store.open_store(settings.blob_url)  # what cannot be used is refused now, not at the first large upload
    engine = database.make_engine(settings, "nestor-server")
    sessions = database.make_sessions(engine, settings)
    listener = Listener(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
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
        summary="Hyperparameter optimisation by implicit differentiation",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # the usual pages load scripts from other hosts
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.sessions = sessions
    app.state.listener = listener
    app.state.streams = Streams(sessions, listener, settings)
    app.add_middleware(Surroundings, settings=settings)
    problems.install(app)
    app.include_router(routes.outside)
    app.include_router(routes.api)
    dashboard = package_files("nestor_server") / "dashboard"
    app.mount("/", StaticFiles(directory=str(dashboard), html=True))
    return app
