"""HTTP as the client needs it: a bearer token, errors as exceptions, and another try where that is safe."""

from __future__ import annotations

import email.utils
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import stamina
from pydantic import BaseModel, ValidationError

from nestor.errors import (
    PROBLEM_JSON,
    AddressInvalid,
    AnswerUnreadable,
    NestorError,
    RequestNotSent,
    ServerUnreachable,
)
from nestor.schemas import API

ATTEMPTS = 6
RETRY_SECONDS = 45.0  # for all attempts of one request together
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
BUSY = frozenset({429, 502, 503, 504})  # answers that another try may better


Model = TypeVar("Model", bound=BaseModel)


class Busy(Exception):
    """An answer that says: not now. `after` is what Retry-After asks for, in seconds."""

    def __init__(self, error: NestorError, after: float | None) -> None:
        super().__init__(str(error))
        self.error, self.after = error, after


class Transport:
    """One server and one token.

    Idempotent requests are repeated when the connection fails or the server is busy, and so is a
    POST, whose Idempotency-Key makes the repetition harmless.
    """

    def __init__(self, server: str, token: str, timeout: float) -> None:
        self.server = server
        self.met = False  # whether this server ever answered
        try:
            self._http = httpx.Client(
                base_url=server + API,
                headers={"Authorization": f"Bearer {token}"},
                timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
                # A proxy of the environment's cannot reach this machine's own addresses.
                trust_env=urlsplit(server).hostname not in LOOPBACK,
            )
        except httpx.InvalidURL:
            raise AddressInvalid(server=server) from None
        except UnicodeError as error:
            raise RequestNotSent(reason=f"the token {error}") from None
        # Studies are not closed by anyone, so connections end with the last of them.
        self.close = weakref.finalize(self, self._http.close)

    def request(self, method: str, path: str, *, retry: bool = True, **options: Any) -> httpx.Response:
        """Send and return the answer, read in full.

        Raises:
            NestorError: what the server says is wrong, as the class that it raised.
            ServerUnreachable: no answer, however often it was asked.
        """
        headers = dict(options.pop("headers", None) or {})
        if method == "POST":
            headers.setdefault("Idempotency-Key", str(uuid4()))
        with self.translated():
            for attempt in stamina.retry_context(
                on=self._worth_another if retry else lambda error: False,
                attempts=ATTEMPTS,
                timeout=RETRY_SECONDS,
                wait_initial=0.1,
                wait_max=5.0,
                wait_jitter=0.5,
            ):
                with attempt:
                    return self._accept(self._http.request(method, path, headers=headers, **options))
        raise AssertionError("retry_context either returns or raises")

    @contextmanager
    def stream(self, path: str, **options: Any) -> Iterator[httpx.Response]:
        """An answer whose body is read as it comes. Nothing is repeated: the reader knows where it stood.

        Raises:
            Busy, httpx.TransportError: another try may succeed.
            NestorError: it will not.
        """
        try:
            with self._http.stream("GET", path, **options) as response:
                if response.is_error:
                    response.read()
                yield self._accept(response)
        except httpx.InvalidURL as error:
            raise RequestNotSent(reason=error) from error

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Failures below HTTP, and a server that stays busy, as Nestor's own errors."""
        try:
            yield
        except Busy as busy:
            raise busy.error from None
        except httpx.RequestError as error:
            raise ServerUnreachable(server=self.server, reason=reason_of(error)) from error
        except (httpx.InvalidURL, UnicodeError, ValueError, TypeError) as error:
            raise RequestNotSent(reason=error) from error

    def _accept(self, response: httpx.Response) -> httpx.Response:
        self.met = True
        if response.is_success or response.status_code == httpx.codes.NOT_MODIFIED:
            return response
        error = error_of(response)
        if response.status_code in BUSY:
            raise Busy(error, retry_after(response))
        raise error

    def _worth_another(self, error: Exception) -> bool | float:
        if isinstance(error, Busy):
            return True if error.after is None else error.after
        # Someone who mistyped the address should not wait for several tries to hear of it.
        return isinstance(error, httpx.TransportError) and (self.met or not isinstance(error, httpx.ConnectError))


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
    """The error that an answer carries; one that is not Nestor's (a proxy's page, say) is quoted."""
    if response.headers.get("content-type", "").startswith(PROBLEM_JSON):
        with suppress(ValueError, AttributeError):  # cut off, or no object
            return NestorError.from_problem(response.json())
    quoted = response.text.strip().split("\n")[0][:200] or response.reason_phrase
    path = response.request.url.path
    return NestorError.from_problem({"detail": f"{response.request.method} {path}: {response.status_code} {quoted}"})


def retry_after(response: httpx.Response) -> float | None:
    """Retry-After in seconds, which may be written as a number or as a date; at most a minute."""
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
    return str(error) or type(error).__name__
