"""One attempt at one trial: everything between a lease and its end, but for the training itself.

The runner's messages become rows, a few transactions a second; the user's wishes, the worker's shutdown and the
loss of the lease become words to the runner, or its end.
"""

from __future__ import annotations

import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from nestor.errors import NestorError, Unavailable
from nestor.schemas import Desired, State
from nestor_server.database import Sessions
from nestor_server.models import Trial
from nestor_server.scheduling import leases, recording
from nestor_server.scheduling.leases import Budget, Lease, LeaseLost
from nestor_server.settings import Settings
from nestor_worker import channel, workdir
from nestor_worker.channel import ChannelBroken, Ended, Failed, Stop
from nestor_worker.supervisor.blob_cache import Cache
from nestor_worker.supervisor.buffer import Gathering
from nestor_worker.supervisor.heartbeat import Heartbeat
from nestor_worker.supervisor.runner_process import Runner

log = logging.getLogger(__name__)

T = TypeVar("T")

FLUSH_SECONDS = 0.25  # between two transactions
AWAY = (OperationalError, InterfaceError, Unavailable)  # of the database or the object store: it will be back
STOP_SECONDS = 20.0  # for the step under way and a checkpoint, after which a runner is ended without
LOST_SECONDS = 5.0  # for the first of several processes to find that another has ended
DRAIN_SECONDS = 6.0  # the same when the worker is shut down: whoever sent SIGTERM may not wait long


@dataclass(frozen=True)
class Slot:
    """One of the places where a worker can run a trial."""

    name: str  # the lease's owner
    devices: tuple[str, ...]  # of one trial
    threads: int  # for each device
    checkpoint_seconds: float
    cache: Cache
    memory_bytes: int | None = None
    silence_seconds: float = math.inf  # after which a runner is taken to hang

    def spawn(self) -> Runner:
        return Runner(threads=self.threads, devices=self.devices)


def supervise(
    sessions: Sessions, settings: Settings, lease: Lease, slot: Slot, runner: Runner, draining: threading.Event
) -> State | None:
    """Run the trial until it ends, is interrupted or is lost; the state that it was left in, None when it was lost.

    `runner` has not begun, and is closed at the end.
    """
    attempt = Attempt(sessions, settings, lease, slot, runner, draining)
    try:
        with attempt.heartbeat:
            try:
                return attempt.run()
            except LeaseLost:
                raise
            except Exception as error:
                log.exception("trial %s: the supervisor failed", lease.trial_id)
                return attempt.give_back(f"its supervisor failed with {type(error).__name__}: {error}")
    except LeaseLost:
        log.warning("trial %s: the lease was lost; this attempt ends without a trace", lease.trial_id)
        return None
    finally:
        attempt.keep()
        runner.close()


class Attempt:
    def __init__(
        self,
        sessions: Sessions,
        settings: Settings,
        lease: Lease,
        slot: Slot,
        runner: Runner,
        draining: threading.Event,
    ) -> None:
        self._sessions, self._lease, self._slot = sessions, lease, slot
        self._runner, self._draining = runner, draining
        self.heartbeat = Heartbeat(sessions, settings, lease)
        self._wish = Desired.run  # as last heard from a recording
        self._gathered = Gathering(runner.directory, max_bytes=settings.max_blob_bytes)
        self._max_bytes = settings.max_blob_bytes
        self._traces = ""  # their name in the cache
        self._flush_at = 0.0
        self._away = False  # the database, when last asked
        self._hung = ""  # why the runner was ended, when it was for that

    def run(self) -> State:
        try:
            devices = self._persist(self._materialise)
        except NestorError as error:
            return self._fail(error)
        log.info("trial %s: attempt %d, runner %d", self._lease.trial_id, self._lease.attempt, self._runner.pid)
        self._runner.begin(devices)
        try:
            last = self._listen(self._runner)
            interrupted = "" if last is not None else self._hung or self._runner.how_it_ended()
            self._flush_all()
        except ChannelBroken as error:
            last, interrupted = None, f"its runner said something unintelligible: {error}"
        if isinstance(last, Failed):
            return self._fail(NestorError.from_problem(asdict(last)))
        return self._end(last, interrupted)

    def give_back(self, reason: str, *, paid_from: Budget | None = "restarts") -> State:
        return self._persist(lambda session: leases.requeue(session, self._lease, reason, paid_from=paid_from))

    def keep(self) -> None:
        """Have at hand what the trial goes on from, should it come back, and what others like it need not trace."""
        with suppress(ChannelBroken):
            if (checkpoint := self._gathered.checkpoint()) is not None:
                self._slot.cache.add(checkpoint)
        with suppress(ChannelBroken):
            if self._traces:
                traces = channel.read_file(self._runner.directory, workdir.TRACES, limit=self._max_bytes)
                self._slot.cache.note(self._traces, traces)

    def _listen(self, runner: Runner) -> Ended | Failed | None:
        """Pass on what the runner says until its last word; None when there will be none."""
        told, patience = False, math.inf  # until when a runner that was told to stop may take its time
        heard_at = time.monotonic()
        while True:
            try:
                message = runner.inbox.get(timeout=FLUSH_SECONDS)
            except queue.Empty:
                if time.monotonic() - heard_at > self._slot.silence_seconds:
                    self._hung = f"its runner said nothing for {self._slot.silence_seconds:g} s"
                    return None
            else:
                heard_at = time.monotonic()
                if message is None or isinstance(message, Ended | Failed):
                    return message
                self._gathered.add(message)
            if self.heartbeat.lost.is_set():
                raise LeaseLost(self._lease)
            if time.monotonic() >= self._flush_at or (not self._away and self._gathered.is_large):
                self._flush()

            wish, drained = self._wanted(), self._draining.is_set()
            if wish is Desired.cancel:
                return None
            if (wish is not Desired.run or drained) and not told:
                runner.tell(Stop())
                told = True
            if drained or wish in (Desired.stop, Desired.pause):  # making way is no reason to lose a long step
                patience = min(patience, time.monotonic() + (DRAIN_SECONDS if drained else STOP_SECONDS))
            if runner.has_lost_a_process:
                patience = min(patience, time.monotonic() + LOST_SECONDS)
            if time.monotonic() > patience:
                log.warning("trial %s: the runner did not stop in time and is ended", self._lease.trial_id)
                return None

    def _wanted(self) -> Desired:
        """A recording's answer is fresher than the heartbeat's, which asks even while no step comes."""
        return self.heartbeat.wish if self._wish is Desired.run else self._wish

    def _end(self, last: Ended | None, interrupted: str) -> State:
        if last is not None and not last.stopped:
            return self._finish(State.complete, last.why)
        match self._persist(lambda session: leases.renew(session, self._lease)):
            case Desired.stop:
                return self._finish(State.complete, "stopped early, as was asked for")
            case Desired.cancel:
                return self._finish(State.cancelled, "cancelled, as was asked for")
            case Desired.pause:
                return self._finish(State.paused, "paused, as was asked for")
            case Desired.run | Desired.make_way if self._draining.is_set():
                return self.give_back("its worker is shutting down", paid_from="preemptions")
            case Desired.make_way if last is not None:
                return self.give_back("its slice of time is over, and others wait", paid_from=None)
            case Desired.run | Desired.make_way:
                unwanted: Budget | None = "restarts" if last is None else None
                return self.give_back(interrupted or "the stop was taken back", paid_from=unwanted)

    def _finish(self, state: State, why: str) -> State:
        return self._persist(lambda session: leases.finish(session, self._lease, state, why=why))

    def _fail(self, error: NestorError) -> State:
        problem = error.problem()
        return self._persist(
            lambda session: leases.finish(session, self._lease, State.failed, problem, why=problem["detail"])
        )

    def _materialise(self, session: Session) -> int:
        """Write what the runner needs; how many devices it is to use."""
        trial = session.get_one(Trial, self._lease.trial_id)
        slot = self._slot
        spec = workdir.materialise(
            session,
            trial,
            self._runner.directory,
            slot.cache,
            threads=slot.threads,
            checkpoint_seconds=slot.checkpoint_seconds,
            memory_bytes=slot.memory_bytes,
        )
        self._traces = spec.traces
        return spec.devices

    def _flush(self) -> bool:
        """Record one batch of what was gathered; whether that is all. While the database is away, training goes on."""
        batch = self._gathered.batch()
        self._flush_at = time.monotonic() + FLUSH_SECONDS
        if not batch:
            return True
        try:
            with self._sessions.begin() as session:
                wish = recording.record(session, self._lease, batch)
        except AWAY as error:
            if not self._away:
                log.warning("trial %s: cannot record now (%s); the trial goes on", self._lease.trial_id, error)
            self._away, self._flush_at = True, time.monotonic() + random.uniform(0.2, 1.0)
            return False
        self._wish, self._away = wish, False
        self._gathered.recorded()
        return not self._gathered.batch()

    def _flush_all(self) -> None:
        while not self._flush():
            if self.heartbeat.lost.is_set():
                raise LeaseLost(self._lease)
            if self._away:
                time.sleep(max(0.0, self._flush_at - time.monotonic()))

    def _persist(self, what: Callable[[Session], T]) -> T:
        """One transaction; while the database is away, again and again until the lease is lost.

        A commit whose answer was lost is harmless: it ended the lease, so a repetition finds it lost.
        """
        while True:
            try:
                with self._sessions.begin() as session:
                    return what(session)
            except AWAY as error:
                if self.heartbeat.lost.is_set():
                    raise LeaseLost(self._lease) from error
                log.warning("trial %s: cannot record or read now (%s); trying again", self._lease.trial_id, error)
                time.sleep(random.uniform(0.2, 1.0))
