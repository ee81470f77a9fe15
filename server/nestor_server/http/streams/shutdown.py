"""Notices that the server is to end, before uvicorn waits for open responses: event streams never end by themselves."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def noticed(close: Callable[[], None]) -> Generator[None]:
    """Call `close` in the event loop when a signal asks this process to end; then the previous handler follows."""
    if threading.current_thread() is not threading.main_thread():  # which alone can handle signals
        yield
        return
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(close)
        following = previous[signal.Signals(number)]
        if callable(following):
            following(number, frame)

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
