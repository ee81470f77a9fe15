"""A door before a service: it can be shut, and the service behind it may move."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit


class Door:
    """A TCP proxy on a port of its own, to the host and port of `url`; `overheard` gets what clients have sent."""

    def __init__(self, url: str, overheard: Callable[[bytes], object] = lambda data: None) -> None:
        self.lead_to(url)
        self._overheard = overheard
        self._lock = threading.Lock()
        self._open: list[socket.socket] | None = []  # None: shut
        self._listener = socket.create_server(("127.0.0.1", 0))
        parts = urlsplit(url)
        user, _, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self._listener.getsockname()[1]}"))
        threading.Thread(target=self._accept, name="door", daemon=True).start()

    def lead_to(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)

    def shut(self) -> None:
        """Cut all connections and refuse new ones."""
        with self._lock:
            cut, self._open = self._open or [], None
        for end in cut:
            _close(end)

    def open(self) -> None:
        with self._lock:
            self._open = []

    def close(self) -> None:
        self.shut()
        _close(self._listener)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._connect(self._listener.accept()[0])

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            return _close(near)
        far.settimeout(None)
        with self._lock:
            if self._open is not None:
                self._open += [near, far]
                for one, other, heard in ((near, far, self._overheard), (far, near, lambda data: None)):
                    threading.Thread(target=_pump, args=(one, other, heard), daemon=True).start()
                return None
        _close(near)
        return _close(far)


def _pump(one: socket.socket, other: socket.socket, overheard: Callable[[bytes], object]) -> None:
    with suppress(OSError):
        while data := one.recv(65_536):
            other.sendall(data)
            overheard(data)
    _close(one)
    _close(other)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
