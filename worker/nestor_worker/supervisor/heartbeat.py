"""Threads that renew a lease, and that show in the database which workers are alive."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from sqlalchemy import case, delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from nestor.schemas import Desired
from nestor_server.database import Sessions
from nestor_server.models import Worker
from nestor_server.observability import logs
from nestor_server.scheduling import leases
from nestor_server.scheduling.entry_points import Offers
from nestor_server.scheduling.leases import Lease, LeaseLost
from nestor_server.settings import Settings
from nestor_worker.supervisor.runners.process import Runner
from nestor_worker.supervisor.tally import Tally

log = logging.getLogger(__name__)

T = TypeVar("T")

ROW_RETENTION = timedelta(days=1)  # the row of a killed worker is removed after this time


class Heartbeat:
    """Renews one lease during a `with` block. `desired` is the latest desired state; `lost` is set with the lease.

    It has its own thread, so that the lease survives the recording of a large checkpoint and a slow step. If the
    database does not answer, it tries again until the lease has expired.
    """

    def __init__(self, sessions: Sessions, settings: Settings, lease: Lease) -> None:
        self._sessions, self._settings, self._lease = sessions, settings, lease
        self._ending = threading.Event()
        self._held_until = time.monotonic() + settings.lease_seconds
        beat = logs.in_thread(self._beat)
        self._thread = threading.Thread(target=beat, name=f"lease-{lease.trial_id}", daemon=True)
        self.desired = Desired.run
        self.lost = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _beat(self) -> None:
        pause = self._settings.heartbeat_seconds
        while not self._ending.wait(pause):
            asked = time.monotonic()
            try:
                with self._sessions.begin() as session:
                    self.desired = leases.renew(session, self._lease)
            except LeaseLost:
                self.lost.set()
                return
            except DBAPIError as error:
                if time.monotonic() > self._held_until:
                    self.lost.set()
                    return
                log.warning("the lease of trial %s could not be renewed: %s", self._lease.trial_id, error)
                pause = min(self._settings.heartbeat_seconds, random.uniform(0.2, 1.0))
            else:
                self._held_until = asked + self._settings.lease_seconds
                pause = self._settings.heartbeat_seconds


class Presence:
    """The rows of this worker in `workers`: one per slot, with its devices, its trial and its entry points.

    Each heartbeat also adds what the worker has counted.

    Args:
        on_drain: called when the worker begins to drain (True) or takes trials again (False), as its rows say.
    """

    def __init__(
        self,
        sessions: Sessions,
        settings: Settings,
        slots: Mapping[str, str],
        offers: Offers,
        tally: Tally,
        on_drain: Callable[[bool], None],
    ) -> None:
        self._entry_points = {name: info.model_dump(mode="json") for name, info in offers.items()}
        self._sessions, self._settings, self._slots = sessions, settings, slots
        self._running: dict[str, tuple[UUID, Runner | None] | None] = dict.fromkeys(slots)
        self._tally = tally
        self._on_drain, self._drains = on_drain, False
        self._began: float | None = time.monotonic()  # until rows say that this process is new
        self._lock = threading.Lock()  # so that a write never follows one of newer values
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="presence", daemon=True)

    def start(self) -> None:
        """Write the rows now and at each heartbeat. Rows of the same name, of an earlier process, become new ones."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Delete the rows."""
        self._ending.set()
        if self._thread.ident is None:  # never started
            return
        self._thread.join(timeout=5)
        self._write_tally()
        with self._lock:
            self._write(lambda session: session.execute(delete(Worker).where(Worker.id.in_(self._slots))))

    def claim(self, slot: str, claim: Callable[[Session], Lease | None]) -> Lease | None:
        """What `claim` leases to `slot` in a transaction, in which it also writes the trial to the row of `slot`."""
        with self._lock:  # a heartbeat at this moment would write that the slot is idle
            with self._sessions.begin() as session:
                lease = claim(session)
            if lease is not None:
                self._running[slot] = lease.trial_id, None
        return lease

    @contextmanager
    def busy(self, slot: str) -> Generator[Callable[[Runner], None]]:
        """Show the trial that `slot` has claimed, until the end of the block, which names the trial's runner."""
        claimed = self._running[slot]
        assert claimed is not None
        trial_id, _ = claimed

        def attach(runner: Runner) -> None:
            self._running[slot] = trial_id, runner

        try:
            yield attach
        finally:
            self._running[slot] = None
            self.beat()
            self._write_tally()

    def _beat(self) -> None:
        dead = delete(Worker).where(Worker.heartbeat_at < func.now() - ROW_RETENTION)
        while not self._ending.wait(self._settings.heartbeat_seconds):
            self.beat()
            self._write(lambda session: session.execute(dead))
            self._write_tally()

    def beat(self) -> None:
        """Write the rows, and do as they say."""
        with self._lock:
            if self._ending.is_set():  # a trial that ends so late must not write rows that are deleted
                return
            new = insert(Worker).values(self._rows())
            seen = {"heartbeat_at": func.now(), **{name: new.excluded[name] for name in ("trial_id", "runner_bytes")}}
            if self._began is not None:
                seen |= _as_new(time.monotonic() - self._began)
            write = new.on_conflict_do_update(index_elements=["id"], set_=seen).returning(Worker.draining_since)
            found = self._write(lambda session: session.scalars(write).all())
            if found is None:  # the next one writes all of it
                return
            self._began = None
            if (drains := any(found)) != self._drains:
                self._drains = drains
                self._on_drain(drains)

    def _rows(self) -> list[dict[str, Any]]:
        versions = {name: version(name) for name in ("nestor", "torch")}
        return [
            {
                "id": slot,
                "device": device,
                "versions": versions,
                "entry_points": self._entry_points,
                **_described(self._running[slot]),
            }
            for slot, device in self._slots.items()
        ]

    def _write_tally(self) -> None:
        try:
            self._tally.write(self._sessions)
        except DBAPIError as error:
            log.warning("cannot add to the counters: %s", error)

    def _write(self, statement: Callable[[Session], T]) -> T | None:
        try:
            with self._sessions.begin() as session:
                return statement(session)
        except DBAPIError as error:
            log.warning("cannot write this worker's heartbeat: %s", error)
            return None


def _as_new(seconds: float) -> dict[str, Any]:
    """The columns of a row whose process began so long ago: only requests since then let it drain."""
    began = func.now() - timedelta(seconds=seconds)
    return {"started_at": began, "draining_since": case((Worker.draining_since >= began, Worker.draining_since))}


def _described(running: tuple[UUID, Runner | None] | None) -> dict[str, Any]:
    trial_id, runner = running or (None, None)
    return {"trial_id": trial_id, "runner_bytes": runner.resident_bytes if runner else None}
