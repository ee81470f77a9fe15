"""A TCP proxy in front of a service: tests can cut its connections and point it at another address."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit


class TcpProxy:
    """A TCP proxy on a port of its own, to the host and port of `url`; `on_client_data` gets what clients have sent."""

    def __init__(self, url: str, on_client_data: Callable[[bytes], object] = lambda data: None) -> None:
        self.forward_to(url)
        self._on_client_data = on_client_data
        self._lock = threading.Lock()
        self._open: list[socket.socket] | None = []  # None: blocked
        self._listener = socket.create_server(("127.0.0.1", 0))
        parts = urlsplit(url)
        user, _, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self._listener.getsockname()[1]}"))
        threading.Thread(target=self._accept, name="tcp-proxy", daemon=True).start()

    def forward_to(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)

    def block(self) -> None:
        """Cut all connections and refuse new ones."""
        with self._lock:
            cut, self._open = self._open or [], None
        for end in cut:
            _close(end)

    def unblock(self) -> None:
        with self._lock:
            self._open = []

    def close(self) -> None:
        self.block()
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
                for one, other, listener in ((near, far, self._on_client_data), (far, near, lambda data: None)):
                    threading.Thread(target=_pump, args=(one, other, listener), daemon=True).start()
                return None
        _close(near)
        return _close(far)


def _pump(one: socket.socket, other: socket.socket, on_client_data: Callable[[bytes], object]) -> None:
    with suppress(OSError):
        while data := one.recv(65_536):
            other.sendall(data)
            on_client_data(data)
    _close(one)
    _close(other)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
