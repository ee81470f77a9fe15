"""Sends the notices of the outbox: on the event loop, with database connections of its own.

Each webhook gets one notice at a time from each process, so a receiver that hangs delays only its own notices, and so
does a name that cannot be looked up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import socket
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar
from uuid import UUID

import httpx
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from nestor.errors import NestorError, ServerBusy
from nestor_server.http.transactions import Transactions
from nestor_server.webhooks import outbox, signing
from nestor_server.webhooks.addresses import AllowList, host_of
from nestor_server.webhooks.outbox import ATTEMPT_SECONDS, Notice

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 1.0  # how late a notice is
MOST_AT_ONCE = 64  # attempts of a process
REASON_CHARACTERS = 300
GONE = 410


class Delivery:
    """Sends what is due, again and again, until it is cancelled."""

    def __init__(self, transactions: Transactions, allowed: AllowList) -> None:
        self._transactions, self._allowed = transactions, allowed
        self._sending: dict[UUID, asyncio.Task[None]] = {}  # by webhook
        self._after = outbox.FIRST  # the webhook that had its turn last
        self._finished = asyncio.Event()  # an attempt was

    async def run(self) -> None:
        """Loop until this task is cancelled. Attempts that are cut off are made again, by another process or later."""
        if not self._allowed:
            return
        tls = await asyncio.to_thread(ssl.create_default_context)
        sender = _Sender(self._allowed, tls)
        try:
            await self._loop(sender)
        finally:
            attempts = list(self._sending.values())
            for task in attempts:
                task.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    async def _loop(self, sender: _Sender) -> None:
        while True:
            self._finished.clear()
            found: list[Notice] = []
            if free := MOST_AT_ONCE - len(self._sending):
                take = partial(outbox.take, n=free, sending=tuple(self._sending), after=self._after)
                try:
                    found = await self._run(take)
                    self._after = max(one.webhook_id for one in found) if len(found) == free else outbox.FIRST
                except (SQLAlchemyError, ServerBusy) as error:
                    log.warning("notices to webhooks wait for the database: %s", error)
            for notice in found:
                self._sending[notice.webhook_id] = asyncio.create_task(self._send(sender, notice))
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._finished.wait()  # its webhook may have another one
            except TimeoutError:
                pass

    async def _send(self, sender: _Sender, notice: Notice) -> None:
        try:
            outcome = await sender.attempt(notice)
            await self._run(outcome)
            await sender.lookup_ends(notice)
        except (SQLAlchemyError, ServerBusy) as error:
            log.warning("notice %s will be sent again: its result cannot be recorded: %s", notice.id, error)
        finally:
            del self._sending[notice.webhook_id]
            self._finished.set()

    async def _run(self, work: Callable[[Session], T]) -> T:
        """What `work` returns. It is not cut off: its connection would be lost with the end of the server."""
        running = asyncio.ensure_future(self._transactions.run(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise


class _Sender:
    """Makes attempts. Each has a connection of its own, to an address that was checked."""

    def __init__(self, allowed: AllowList, tls: ssl.SSLContext) -> None:
        self._allowed, self._tls = allowed, tls
        self._agent = f"nestor/{version('nestor')}"
        self._lookups: dict[UUID, asyncio.Future[Any]] = {}  # by webhook

    async def attempt(self, notice: Notice) -> partial[None]:
        """Send the notice once. Returns what is to be recorded about it, as a function of a session."""
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS), self._post(notice) as status:
                if 200 <= status < 300:
                    return partial(outbox.delivered, notice=notice, http_status=status)
                redirected = ", a redirect, which is not followed" if 300 <= status < 400 else ""
                reason = f"the receiver answered {status}{redirected}"
                return partial(outbox.refused, notice=notice, reason=reason, http_status=status, gone=status == GONE)
        except TimeoutError:
            reason = f"the receiver did not answer within {ATTEMPT_SECONDS:g} seconds"
        except NestorError as error:
            reason = str(error)
        except (httpx.HTTPError, OSError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
        except Exception:
            log.exception("notice %s could not be sent", notice.id)
            reason = "the server failed to send it; its log has the details"
        return partial(outbox.refused, notice=notice, reason=reason[:REASON_CHARACTERS], http_status=None)

    async def lookup_ends(self, notice: Notice) -> None:
        """Wait for a lookup that outlives its attempt: its webhook has one thread at most, as it has one attempt."""
        if (lookup := self._lookups.get(notice.webhook_id)) is not None:
            await asyncio.wait([lookup])

    async def _addresses(self, notice: Notice, host: str, port: int) -> list[str]:
        """The addresses of a host."""
        resolve = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        lookup = self._lookups[notice.webhook_id] = _in_own_thread(resolve)

        def forget(ended: asyncio.Future[Any]) -> None:
            del self._lookups[notice.webhook_id]
            ended.exception()  # known now, also if the attempt is over

        lookup.add_done_callback(forget)
        await asyncio.wait([lookup])  # which does not end it: nothing can
        return [str(entry[4][0]) for entry in lookup.result()]

    @asynccontextmanager
    async def _post(self, notice: Notice) -> AsyncGenerator[int]:
        """The status of the answer. Its body is not read, and no cookie, proxy or redirect is followed."""
        url = self._allowed.expect(notice.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        address = self._allowed.choose(url, await self._addresses(notice, host_of(url), port))
        content = signing.body(notice.type, notice.created_at, notice.data)
        headers = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": self._agent,
            "Content-Type": "application/json",
            **signing.headers(notice.secret, notice.id, int(time.time()), content),
        }
        request = httpx.Request(
            "POST",
            url.copy_with(host=str(address), port=port),
            headers=headers,
            content=content,
            extensions={"sni_hostname": host_of(url)},
        )
        async with httpx.AsyncHTTPTransport(verify=self._tls, retries=0) as transport:
            response = await transport.handle_async_request(request)
            try:
                yield response.status_code
            finally:
                await response.aclose()


def _in_own_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """What `call` returns, in a thread that nobody waits for: neither other calls nor the end of the process."""
    found: concurrent.futures.Future[T] = concurrent.futures.Future()
    found.set_running_or_notify_cancel()

    def run() -> None:
        try:
            found.set_result(call())
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=run, name="webhook-name", daemon=True).start()
    return asyncio.wrap_future(found)
