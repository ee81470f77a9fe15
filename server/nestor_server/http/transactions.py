"""Transactions of requests: each runs in one thread that holds one connection, and commits before the response is sent.

A connection is held by a thread that works. It is never held by a request that waits for a thread, for bytes from its
client, or for its client to read. There are as many threads as connections, so no thread waits for a connection.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import update_wrapper
from typing import Annotated, Any, Generic, TypeVar, get_args
from uuid import UUID

import psycopg
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException

from nestor.errors import NestorError, ServerBusy
from nestor.schemas import Scope
from nestor_server.database import Sessions
from nestor_server.http.admission import ClientGone, Gate
from nestor_server.http.callers import auth
from nestor_server.http.checks.bodies import JsonRequest, allow, limit_of
from nestor_server.limits.remembered import Remembered
from nestor_server.services.access.tokens import Caller

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# Parameters of routes that TransactionRoute fills in. The function is called with the request's transaction, and only
# if the caller's token has the scope.
Tx = Annotated[Session, "transaction"]
Reader = Annotated[Caller, Scope.read]
Writer = Annotated[Caller, Scope.write]
Admin = Annotated[Caller, Scope.admin]

CANCEL_SECONDS = 5.0  # for PostgreSQL to take a cancellation
CANCEL_EVERY = 0.5  # seconds, because a cancellation between two statements has no effect
CLIENT_GONE = 499  # of nginx: the client closed the connection. Only the log shows it


class Transactions:
    """Runs functions in transactions, in threads behind a gate at which users take turns."""

    def __init__(self, sessions: Sessions, gate: Gate) -> None:
        self._sessions, self._gate = sessions, gate
        self._users: Remembered[int, UUID] = Remembered()  # credentials, hashed → their user, as last seen

    async def run(
        self, work: Callable[[Session], T], *, request: Request | None = None, while_connected: bool = False
    ) -> T:
        """What `work` returns. The transaction is committed before, and rolled back if `work` raises.

        Args:
            request: whose user takes turns with others. Unknown users are one.
            while_connected: do nothing if the client is gone when its turn comes, and cancel the statement that runs
                when it leaves, or when a body that no route reads stalls or is too large. The body of a route that
                reads it must have been read: this takes further messages from the client.

        Raises:
            ServerBusy: as `Gate.run`.
            ClientGone, BodyStalled, TooLarge: nothing was changed.
        """
        transaction = _Transaction(self._sessions, work)
        user = self.user_of(request) if request else None
        if request is None or not while_connected:
            return await self._gate.run(transaction, caller=user)
        leaving = asyncio.create_task(_disconnect(request))
        running = asyncio.create_task(self._gate.run(transaction, caller=user, is_gone=leaving.done))
        try:
            await asyncio.wait((leaving, running), return_when=asyncio.FIRST_COMPLETED)
            while not running.done():
                works = await asyncio.to_thread(transaction.cancel)
                await asyncio.wait((running,), timeout=CANCEL_EVERY if works else None)
            try:
                return running.result()  # also if it was too late to cancel
            except ClientGone:
                leaving.result()  # raises what is wrong with a body that no route reads
                raise
        finally:
            leaving.cancel()
            running.cancel()

    def user_of(self, request: Request) -> UUID | None:
        """The user whom these credentials were found to belong to, if that was seen before."""
        return self._users.get(auth.fingerprint(request))

    def remember(self, request: Request) -> None:
        """Let the user of this request, whose token was found to be valid, take turns as this user from now on."""
        self._users.put(auth.fingerprint(request), request.state.caller.user_id)


class _Transaction(Generic[T]):
    """A call of `work` in a transaction. Until it returns, another thread can cancel it."""

    def __init__(self, sessions: Sessions, work: Callable[[Session], T]) -> None:
        self._sessions, self._work = sessions, work
        self._lock = threading.Lock()  # until a cancellation has arrived: the connection may serve another request then
        self._connection: psycopg.Connection | None = None
        self._is_cancelled = False

    def __call__(self) -> T:
        with self._sessions.begin() as session:
            try:
                self._use(session.connection().connection.driver_connection)
                return self._work(session)
            except DBAPIError:
                if self._is_cancelled:
                    raise ClientGone from None
                raise
            finally:
                self._use(None)

    def cancel(self) -> bool:
        """Whether it works. Then the statement is cancelled that runs now. Otherwise it will do nothing."""
        with self._lock:
            self._is_cancelled = True
            if self._connection is None:
                return False
            with suppress(psycopg.Error):  # then the transaction ends by itself
                self._connection.cancel_safe(timeout=CANCEL_SECONDS)
            return True

    def _use(self, connection: psycopg.Connection | None) -> None:
        with self._lock:
            if connection is not None and self._is_cancelled:
                raise ClientGone
            self._connection = connection


async def _disconnect(request: Request) -> None:
    """Wait until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class TransactionRoute(APIRoute):
    """A route whose function runs in a transaction, with the caller that its token names.

    Strangers learn nothing but that they are strangers: their bodies are not read, and their mistakes not explained.
    """

    transactions = "transactions"  # the attribute of the application's state

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if not inspect.iscoroutinefunction(endpoint):
            endpoint = _in_transaction(endpoint, self.transactions)
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, which reads the body, after the caller of a request with a body is known."""
        handle, scope = super().get_route_handler(), scope_of(self.endpoint)
        model: Any = None if self.body_field is None else self.body_field.field_info.annotation
        assert model is None or issubclass(model, BaseModel), f"{self.path}: give its body a default in place of None"

        async def handle_for_caller(request: Request) -> Response:
            transactions: Transactions = getattr(request.app.state, self.transactions)
            if scope is not None and (user := transactions.user_of(request)) is not None:
                auth.count(request, user)  # before it costs anything
            if model is not None:
                request = JsonRequest(request, model, request.app.state.bodies)
            try:
                if scope is not None and _has_body(request):
                    await identify(transactions, request, scope)
                    allow(request.scope, limit_of(self.endpoint, request.app.state.settings.max_json_bytes))
                try:
                    return await handle(request)
                except ServerBusy:  # to look who asks would only take another turn
                    raise
                except (RequestValidationError, NestorError, HTTPException):
                    if scope is not None and not hasattr(request.state, "caller"):
                        await identify(transactions, request, scope)
                    raise
            except ClientGone:
                return Response(status_code=CLIENT_GONE)

        async def identify(transactions: Transactions, request: Request, scope: Scope) -> None:
            auth.credentials(request)  # a request without them takes no turn
            await transactions.run(lambda session: _caller(request, session, scope), request=request)
            transactions.remember(request)

        return handle_for_caller


class StreamRoute(TransactionRoute):
    """A route of event streams. A thousand that open at once make no other request wait."""

    transactions = "stream_transactions"


def _in_transaction(function: Callable[..., Any], transactions: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    """`function` for FastAPI: without the parameters that are filled in here, and with `request`."""
    signature = inspect.signature(function, eval_str=True)
    filled = {name: get_args(p.annotation) for name, p in signature.parameters.items() if _is_filled_in(p)}
    assert filled, f"{function} needs no transaction: make it `async`, so that it works without a database"
    others = [parameter for name, parameter in signature.parameters.items() if name not in filled]
    takes_request = "request" in signature.parameters
    if not takes_request:
        others.append(inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request))
    scope = next((scope for kind, scope in filled.values() if kind is Caller), None)

    async def run(**arguments: Any) -> Any:
        request: Request = arguments["request"] if takes_request else arguments.pop("request")

        def work(session: Session) -> Any:
            values: dict[type, Any] = {Session: session}
            if scope is not None:
                values[Caller] = _caller(request, session, scope)
            return function(**arguments, **{name: values[kind] for name, (kind, _) in filled.items()})

        used: Transactions = getattr(request.app.state, transactions)
        result = await used.run(work, request=request, while_connected=True)
        if scope is not None:
            used.remember(request)
        return result

    update_wrapper(run, function)
    del run.__dict__["__wrapped__"]  # FastAPI would find the function beneath
    run.__dict__["__signature__"] = signature.replace(parameters=others)
    run.__dict__["scope"] = scope
    return run


def _is_filled_in(parameter: inspect.Parameter) -> bool:
    return get_args(parameter.annotation)[:1] in ((Session,), (Caller,))


def checks_scope(scope: Scope) -> Callable[[F], F]:
    """Say which scope a route's function needs that looks at the token by itself."""

    def say(function: F) -> F:
        function.__dict__["scope"] = scope
        return function

    return say


def scope_of(endpoint: Callable[..., Any]) -> Scope | None:
    """The scope that a route's function needs; None: it needs no token."""
    return endpoint.__dict__.get("scope")


def _caller(request: Request, session: Session, scope: Scope) -> Caller:
    """The caller of the request, who is looked up once."""
    if not hasattr(request.state, "caller"):
        request.state.caller = auth.authenticate(request, session, scope)
    return request.state.caller


def _has_body(request: Request) -> bool:
    return request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers
