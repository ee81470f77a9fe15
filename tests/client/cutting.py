"""A TCP proxy in front of a real server that cuts connections after a given number of bytes."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass
class Cutting:
    url: str
    sent: list[int]  # cut a connection once the client sent so many bytes, one number for each connection to be cut
    received: list[int]  # the same for what the client receives
    connections: int = 0
    cut: int = 0


@contextmanager
def cutting(server: str, *, sent: tuple[int, ...] = (), received: tuple[int, ...] = ()) -> Iterator[Cutting]:
    """Further connections are not cut."""
    target = (urlsplit(server).hostname or "", urlsplit(server).port or 80)
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Cutting(f"http://127.0.0.1:{listener.getsockname()[1]}", list(sent), list(received))
    threads: list[threading.Thread] = []
    closing = threading.Event()

    def accept() -> None:
        while not closing.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = listener.accept()
                thread = threading.Thread(target=_serve, args=(proxy, client, target, closing))
                thread.start()
                threads.append(thread)

    listener.settimeout(0.05)
    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield proxy
    finally:
        closing.set()
        acceptor.join()
        for thread in threads:
            thread.join()
        listener.close()


def _serve(proxy: Cutting, client: socket.socket, target: tuple[str, int], closing: threading.Event) -> None:
    proxy.connections += 1
    up = proxy.sent.pop(0) if proxy.sent else None
    down = proxy.received.pop(0) if proxy.received else None
    with client, socket.create_connection(target) as upstream, selectors.DefaultSelector() as selector:
        left = {client: up, upstream: down}
        for source in left:
            selector.register(source, selectors.EVENT_READ)
        while not closing.is_set():
            for key, _ in selector.select(0.05):
                source = key.fileobj
                assert isinstance(source, socket.socket)
                try:
                    limit, data = left[source], source.recv(65_536)
                    if not data:
                        return
                    if limit is not None:
                        data, left[source] = data[:limit], limit - len(data[:limit])
                    (upstream if source is client else client).sendall(data)
                except OSError:
                    return
                if left[source] == 0:
                    proxy.cut += 1
                    return
