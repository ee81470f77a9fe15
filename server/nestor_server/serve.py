"""Runs the server in this process until a signal comes."""

from __future__ import annotations

import logging
from types import FrameType

import uvicorn

from nestor_server.app import create_app
from nestor_server.http.event_stream import Listener
from nestor_server.settings import settings as from_environment

GRACE = 5  # seconds that requests get to finish


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, listener: Listener) -> None:
        super().__init__(config)
        self._listener = listener

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the event streams first: uvicorn waits for open answers, and those would stay open."""
        self._listener.close()
        super().handle_exit(sig, frame)


def serve(*, host: str | None = None, port: int | None = None) -> None:
    """Serve as the environment says; `host` and `port` go before it."""
    chosen = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = from_environment().model_copy(update=chosen)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it would speak at every look of /readyz
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,  # the middleware writes one line a request, with its id
        log_config=None,
        timeout_graceful_shutdown=GRACE,
    )
    _Server(config, app.state.listener).run()
