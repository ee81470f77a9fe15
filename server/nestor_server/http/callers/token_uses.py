"""When tokens were used last, recorded some seconds later, so that no request writes."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import final
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from nestor.errors import ServerBusy
from nestor_server.http.transactions import Transactions
from nestor_server.services.access import tokens

log = logging.getLogger(__name__)

RECORD_SECONDS = 5.0  # between two statements
EVERY = timedelta(minutes=1)  # a token's use is recorded at most this often


@final
class TokenUses:
    """The uses of tokens that this process has seen. A process that ends forgets those of its last minute."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._seen: dict[UUID, datetime] = {}  # not recorded yet; threads add to it
        self._recorded: dict[UUID, datetime] = {}  # within the last minute

    def note(self, token_id: UUID) -> None:
        """A request came with this token."""
        self._seen[token_id] = datetime.now(UTC)

    async def record(self) -> None:
        """Record what was noted, again and again until this task is cancelled."""
        while True:
            await asyncio.sleep(RECORD_SECONDS)
            now = datetime.now(UTC)
            self._recorded = {token_id: at for token_id, at in self._recorded.items() if now - at < EVERY}
            due = {token_id: at for token_id, at in self._seen.copy().items() if token_id not in self._recorded}
            if not due:
                continue
            try:
                await self._transactions.run(partial(tokens.record_uses, used_at=due))
            except (SQLAlchemyError, ServerBusy) as error:
                log.warning("uses of tokens are recorded later: %s", error)
                continue
            for token_id, at in due.items():
                self._recorded[token_id] = at
                if self._seen.get(token_id) == at:
                    del self._seen[token_id]
