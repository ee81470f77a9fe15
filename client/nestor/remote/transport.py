"""HTTP for the client: a bearer token, errors as exceptions, and retries of requests that are safe to repeat."""

from __future__ import annotations

import email.utils
import logging
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from nestor.errors import (
    PROBLEM_JSON,
    AddressInvalid,
    AnswerUnreadable,
    ConnectionsClosed,
    ConnectionSettingsInvalid,
    NestorError,
    RequestNotSent,
    ServerUnreachable,
    TooManyRequests,
)
from nestor.remote.credentials import LOOPBACK
from nestor.schemas import API

log = logging.getLogger(__name__)

ATTEMPTS = 6
RETRY_SECONDS = 45.0  # limit for all attempts of one request
FIRST_PAUSE_SECONDS = 0.1  # doubles with every attempt, up to
LONGEST_PAUSE_SECONDS = 5.0
JITTER_SECONDS = 0.5  # so that many clients do not come back at the same time
MAX_REQUESTS = 32  # at the same time, so that one client does not occupy all threads of a server; streams do not count
RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})

P = ParamSpec("P")
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


class RetryLater(Exception):
    """A response with one of `RETRYABLE_STATUSES`. `after` is its Retry-After in seconds."""

    def __init__(self, error: NestorError, after: float | None) -> None:
        super().__init__(str(error))
        self.error, self.after = error, after


class Transport:
    """Connections to one server with one token.

    Requests are repeated when the connection fails or the server is busy. A POST carries an Idempotency-Key, so that
    it takes effect once.

    Args:
        timeout: seconds to wait for each part of a response.
    """

    def __init__(self, server: str, token: str, timeout: float) -> None:
        self.server = server
        self.connected_before = False  # whether this server ever responded
        self._slots = threading.Semaphore(MAX_REQUESTS)
        try:
            self._http = httpx.Client(
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
        # Users do not close studies, so connections are closed with the last reference to this object.
        weakref.finalize(self, self._http.close)  # synchronous only: nothing can be awaited then

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def request(self, method: str, path: str, *, retry: bool = True, **options: Any) -> httpx.Response:
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
                    return self._send(method, path, headers=headers, **options)
                except (RetryLater, httpx.TransportError) as error:
                    pause = self._pause_after(error, attempt)
                    if not retry or attempt == ATTEMPTS or pause is None or time.monotonic() + pause > end:
                        raise
                    log.debug("%s %s is repeated in %.1f s: %s", method, path, pause, error)
                    time.sleep(pause)
                    # Who sends too much is only slowed down, as long as the server says when to go on.
                    attempt += not (isinstance(error, RetryLater) and isinstance(error.error, TooManyRequests))

    @contextmanager
    def stream(self, path: str, **options: Any) -> Generator[httpx.Response]:
        """A response whose body is read as it arrives. The caller retries, because it knows where to continue.

        Raises:
            RetryLater, httpx.TransportError: a retry may succeed.
            NestorError: a retry will not succeed.
        """
        try:
            with self._http.stream("GET", path, **options) as response:
                if response.is_error:
                    response.read()
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

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._slots:
            return self._accept(self._http.request(method, path, **options))

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


def trace_headers() -> dict[str, str]:
    """The active span of the user's process, if it uses OpenTelemetry: then the server's spans are below it."""
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:  # without it, no span can be active
        from opentelemetry import propagate

        propagate.inject(headers)
    return headers


def offload(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a function that computes for long. `AsyncClient` calls it in a thread."""
    return function(*args, **kwargs)


def read(model: type[Model], response: httpx.Response) -> Model:
    """The answer's body as `model`.

    Raises:
        AnswerUnreadable: it is something else.
    """
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}"
        url = response.request.url
        raise AnswerUnreadable(server=f"{url.scheme}://{url.netloc.decode()}", path=url.path, reason=reason) from None


def error_of(response: httpx.Response) -> NestorError:
    """The error in a response. The first line of one that is not Nestor's, such as a proxy's page, is quoted."""
    if response.headers.get("content-type", "").startswith(PROBLEM_JSON):
        with suppress(ValueError, AttributeError):  # cut off, or no object
            return NestorError.from_problem(response.json())
    quoted = response.text.strip().split("\n")[0][:200] or response.reason_phrase
    path = response.request.url.path
    return NestorError.from_problem({"detail": f"{response.request.method} {path}: {response.status_code} {quoted}"})


def retry_after(response: httpx.Response) -> float | None:
    """Seconds until Retry-After, a number or a date, capped at a minute; None if it is missing or malformed."""
    value = response.headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), 60.0)


def reason_of(error: httpx.RequestError) -> str:
    """The error's text, or its class if it has none."""
    return str(error) or type(error).__name__
