"""Runs the server in this process until it receives SIGINT or SIGTERM."""

from __future__ import annotations

import logging
from types import FrameType

import uvicorn

from nestor_server.app import create_app
from nestor_server.http.event_stream import Listener
from nestor_server.settings import settings as from_environment

SHUTDOWN_SECONDS = 5  # time for running requests to finish


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, listener: Listener) -> None:
        super().__init__(config)
        self._listener = listener

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the event streams first: uvicorn waits for open responses, and streams stay open by themselves."""
        self._listener.close()
        super().handle_exit(sig, frame)


def serve(*, host: str | None = None, port: int | None = None) -> None:
    """Serve with the settings of the environment; `host` and `port` override them."""
    overrides = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = from_environment().model_copy(update=overrides)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it would log at every request to /readyz
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,  # the middleware logs each request with its id
        log_config=None,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    _Server(config, app.state.listener).run()
