"""HTTP for the client: a bearer token, errors as exceptions, and retries of requests that are safe to repeat.

Written by `python -m nestor.remote.asynchronous` from nestor.remote.transport.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from nestor.errors import (
    AddressInvalid,
    ConnectionsClosed,
    ConnectionSettingsInvalid,
    RequestNotSent,
    ServerUnreachable,
    TooManyRequests,
)
from nestor.remote.credentials import LOOPBACK
from nestor.remote.transport import (
    ATTEMPTS,
    FIRST_PAUSE_SECONDS,
    JITTER_SECONDS,
    LONGEST_PAUSE_SECONDS,
    MAX_REQUESTS,
    RETRY_SECONDS,
    RETRYABLE_STATUSES,
    RetryLater,
    error_of,
    reason_of,
    retry_after,
    trace_headers,
)
from nestor.schemas import API

log = logging.getLogger(__name__)


class AsyncTransport:
    """Connections to one server with one token.

    Requests are repeated when the connection fails or the server is busy. A POST carries an Idempotency-Key, so that
    it takes effect once.

    Args:
        timeout: seconds to wait for each part of a response.
    """

    def __init__(self, server: str, token: str, timeout: float) -> None:
        self.server = server
        self.connected_before = False  # whether this server ever responded
        self._slots = asyncio.Semaphore(MAX_REQUESTS)
        try:
            self._http = httpx.AsyncClient(
                base_url=server + API,
                headers={"Authorization": f"Bearer {token}"},
                timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=MAX_REQUESTS),
                # A proxy from the environment cannot reach this machine's loopback addresses.
                trust_env=urlsplit(server).hostname not in LOOPBACK,
                # The authority of SSL_CERT_FILE holds for them, too.
                verify=httpx.create_ssl_context() if server.startswith("https:") else True,
            )
        except httpx.InvalidURL:
            raise AddressInvalid(server=server) from None
        except UnicodeError:
            raise RequestNotSent(reason="the token has characters that are not ASCII") from None
        except (OSError, ValueError, ImportError) as error:
            raise ConnectionSettingsInvalid(reason=str(error).rstrip(".")) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def request(self, method: str, path: str, *, retry: bool = True, **options: Any) -> httpx.Response:
        """Send a request, with retries if `retry`, and return the complete response.

        `options` are those of `httpx.Client.request`.

        Raises:
            NestorError: the server reports an error; it has the class that the server raised.
            ServerUnreachable: no attempt got a response.
        """
        headers = trace_headers() | dict(options.pop("headers", None) or {})
        if method == "POST":
            headers.setdefault("Idempotency-Key", str(uuid4()))
        end = time.monotonic() + RETRY_SECONDS
        attempt = 1
        with self.translate_errors():
            while True:
                try:
                    return await self._send(method, path, headers=headers, **options)
                except (RetryLater, httpx.TransportError) as error:
                    pause = self._pause_after(error, attempt)
                    if not retry or attempt == ATTEMPTS or pause is None or time.monotonic() + pause > end:
                        raise
                    log.debug("%s %s is repeated in %.1f s: %s", method, path, pause, error)
                    await asyncio.sleep(pause)
                    # Who sends too much is only slowed down, as long as the server says when to go on.
                    attempt += not (isinstance(error, RetryLater) and isinstance(error.error, TooManyRequests))

    @asynccontextmanager
    async def stream(self, path: str, **options: Any) -> AsyncGenerator[httpx.Response]:
        """A response whose body is read as it arrives. The caller retries, because it knows where to continue.

        Raises:
            RetryLater, httpx.TransportError: a retry may succeed.
            NestorError: a retry will not succeed.
        """
        try:
            async with self._http.stream("GET", path, **options) as response:
                if response.is_error:
                    await response.aread()
                yield self._accept(response)
        except httpx.InvalidURL as error:
            raise RequestNotSent(reason=error) from error
        except RuntimeError as error:
            raise ConnectionsClosed(server=self.server) from error

    @contextmanager
    def translate_errors(self) -> Generator[None]:
        """Turn connection failures into `ServerUnreachable`, and `RetryLater` into the error of the last response."""
        try:
            yield
        except RetryLater as retry_later:
            raise retry_later.error from None
        except httpx.RequestError as error:
            raise ServerUnreachable(server=self.server, reason=reason_of(error)) from error
        except (httpx.InvalidURL, UnicodeError, ValueError, TypeError) as error:
            raise RequestNotSent(reason=error) from error
        except RuntimeError as error:  # closed by the user, or opened in an event loop that has ended
            raise ConnectionsClosed(server=self.server) from error

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with self._slots:
            return self._accept(await self._http.request(method, path, **options))

    def _accept(self, response: httpx.Response) -> httpx.Response:
        self.connected_before = True
        if response.is_success or response.status_code == 304:
            return response
        error = error_of(response)
        if response.status_code in RETRYABLE_STATUSES:
            raise RetryLater(error, retry_after(response))
        raise error

    def _pause_after(self, error: RetryLater | httpx.TransportError, attempt: int) -> float | None:
        """Seconds until the next attempt; None if it would fail as well, as for a mistyped address."""
        if isinstance(error, RetryLater) and error.after is not None:
            return error.after
        if isinstance(error, httpx.ConnectError) and not self.connected_before:
            return None
        backoff = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        return backoff + random.uniform(0.0, JITTER_SECONDS)
