"""The part of a client that asks about the server, and about the tokens of its user.

Written by `python -m nestor.remote.asynchronous` from nestor.remote.administration.
"""

from __future__ import annotations

from urllib.parse import quote
from uuid import UUID

from nestor import schemas
from nestor.remote.asynchronous.connection import AsyncConnection
from nestor.remote.transport import read


class AsyncAdministration(AsyncConnection):
    """The server, its workers, and who may use it."""

    async def me(self) -> schemas.Me:
        """The user and the scope of this client's token."""
        return await self._get("/me", schemas.Me)

    async def version(self) -> schemas.Version:
        """The versions of the server and of its interface."""
        return await self._get("/version", schemas.Version)

    async def create_token(self, new: schemas.TokenCreate) -> schemas.TokenCreated:
        """Create another token of the same user. This takes an admin token, and the result is the only copy.

        Raises:
            Forbidden
        """
        return await self._post("/tokens", new, schemas.TokenCreated)

    async def tokens(self) -> list[schemas.Token]:
        """The valid tokens of this user, oldest first. This takes an admin token.

        Raises:
            Forbidden
        """
        return list((await self._get("/tokens", schemas.TokenPage)).items)

    async def revoke_token(self, token_id: UUID) -> None:
        """Revoke a token of this user with immediate effect. This takes an admin token.

        Raises:
            TokenNotFound
            Forbidden
        """
        await self._transport.request("DELETE", f"/tokens/{token_id}")

    async def workers(self) -> schemas.Workers:
        """The workers that can run trials, which trials of this user they run, and how many trials wait for them."""
        return await self._get("/workers", schemas.Workers)

    async def drain(self, worker: str) -> schemas.Workers:
        """Let a worker process hand its trials over and take no more. This takes an admin token.

        Args:
            worker: the id of the process, or of one of its slots.

        Returns:
            The slots of the process. It can be stopped when all are drained.

        Raises:
            WorkerNotFound
            Forbidden
        """
        return await self._post(f"/workers/{quote(str(worker), safe='')}/drain", None, schemas.Workers)

    async def undrain(self, worker: str) -> schemas.Workers:
        """Let a worker process that drains take trials again. This takes an admin token.

        Raises:
            WorkerNotFound
            Forbidden
        """
        response = await self._transport.request("DELETE", f"/workers/{quote(str(worker), safe='')}/drain")
        return read(schemas.Workers, response)

    async def presets(self) -> schemas.Presets:
        """What workers build by themselves: presets, and the entry points of packages that running workers have."""
        return await self._get("/presets", schemas.Presets)
