"""Verifies uploads as their bytes arrive: the digest, and whether all numbers are finite.

The states of running uploads are kept in the memory of this process. Bytes are only added to an upload, and only the
state of what a committed transaction stored is kept, so it is valid in every later transaction. Another process, or
this one after a restart, has an older state or none, and reads the stored bytes from there.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from copy import copy
from uuid import UUID

from sqlalchemy import event
from sqlalchemy.orm import Session

from nestor_server.models import Blob
from nestor_server.storage.number_check import NumberCheck

KEPT_BYTES = 64 * 2**20  # memory of all states together. One takes 1 KB, or 16 MB while a long header arrives
_STATE_BYTES = 1024
_PENDING = "verifications"


class Verification:
    """What is known of the first `position` bytes of an upload of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size, self.position = size, 0
        self._sha256 = hashlib.sha256()
        self._numbers = NumberCheck(size)

    @property
    def digest(self) -> str:
        """Of these bytes, as blobs are named."""
        return f"sha256:{self._sha256.hexdigest()}"

    @property
    def not_finite(self) -> dict[str, list[int]]:
        """As `NumberCheck.not_finite`, of these bytes."""
        return self._numbers.not_finite

    @property
    def nbytes(self) -> int:
        """Approximate memory that it takes."""
        return _STATE_BYTES + self._numbers.nbytes

    def after(self, data: bytes) -> Verification:
        """The state after the next bytes. This one does not change, because the transaction may be rolled back."""
        new = copy(self)
        new._sha256, new._numbers = self._sha256.copy(), self._numbers.copy()
        new._sha256.update(data)
        new._numbers.update(data)
        new.position += len(data)
        return new


class Verifications:
    """The states of running uploads, of at most `limit` bytes together. The least recently used are dropped first."""

    def __init__(self, limit: int) -> None:
        self._limit, self._nbytes = limit, 0
        self._states = OrderedDict[UUID, Verification]()
        self._lock = threading.Lock()

    def of(self, blob: Blob) -> Verification:
        """The latest known state of an upload, whose row is locked."""
        with self._lock:
            state = self._states.get(blob.id)
        return Verification(blob.size) if state is None or state.position > blob.offset else state

    def keep(self, upload_id: UUID, state: Verification) -> None:
        """Keep the state in place of an earlier one. No state of an upload that ended is needed."""
        with self._lock:
            old = self._states.get(upload_id)
            if old is not None and old.position > state.position:  # another thread was faster
                return
            self._drop(upload_id)
            if state.position < state.size:
                self._states[upload_id] = state
                self._nbytes += state.nbytes
            while self._nbytes > self._limit:
                self._drop(next(iter(self._states)))

    def _drop(self, upload_id: UUID) -> None:
        if (state := self._states.pop(upload_id, None)) is not None:
            self._nbytes -= state.nbytes


running = Verifications(KEPT_BYTES)


def keep_on_commit(session: Session, blob: Blob, state: Verification) -> None:
    """Keep the state, which includes bytes of this transaction, once the transaction is committed."""
    session.info.setdefault(_PENDING, {})[blob.id] = state


@event.listens_for(Session, "after_commit")
def _keep_pending(session: Session) -> None:
    if session.in_nested_transaction():  # a savepoint was released; the transaction may still be rolled back
        return
    for upload_id, state in session.info.pop(_PENDING, {}).items():
        running.keep(upload_id, state)


@event.listens_for(Session, "after_rollback")
def _drop_pending(session: Session) -> None:
    if not session.in_nested_transaction():
        session.info.pop(_PENDING, None)
