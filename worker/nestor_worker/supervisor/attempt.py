"""One attempt at one trial: everything from the claim of its lease to its end, except the training itself.

The runner's messages become rows, in a few transactions per second. The desired state, the worker's shutdown and the
loss of the lease become messages to the runner, or end it.
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
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from nestor import lifecycle
from nestor.errors import NestorError, Unavailable
from nestor.program_format import MAX_TRACE_BYTES
from nestor.schemas import Desired, State
from nestor_server.database import Sessions
from nestor_server.models import Dataset, Trial
from nestor_server.observability import traces
from nestor_server.scheduling import leases, recording
from nestor_server.scheduling.leases import Lease, LeaseBudget, LeaseLost
from nestor_server.settings import Settings
from nestor_worker import channel, workdir
from nestor_worker.channel import ChannelBroken, Ended, Failed, Stop
from nestor_worker.supervisor import references
from nestor_worker.supervisor.blob_cache import BlobCache
from nestor_worker.supervisor.buffer import RecordBuffer
from nestor_worker.supervisor.heartbeat import Heartbeat
from nestor_worker.supervisor.materialize import materialize
from nestor_worker.supervisor.references import Roots
from nestor_worker.supervisor.runners.fork_server import ForkServer
from nestor_worker.supervisor.runners.process import Runner
from nestor_worker.supervisor.step_spans import StepSpans
from nestor_worker.supervisor.tally import Tally

log = logging.getLogger(__name__)

T = TypeVar("T")

FLUSH_SECONDS = 0.25  # between two transactions
RETRYABLE_ERRORS = (OperationalError, InterfaceError, Unavailable)  # of the database or the object store
STOP_SECONDS = 20.0  # time for the current step, its evaluation and a checkpoint, before a runner is killed
LOST_SECONDS = 5.0  # time for the first process of a runner to notice that another one has ended
DRAIN_SECONDS = 6.0  # as STOP_SECONDS, at shutdown of the worker: the sender of SIGTERM may not wait long


class _Interrupted(Exception):
    """The attempt must end before its runner begins."""


@dataclass(frozen=True)
class Slot:
    """What a worker uses for one trial at a time."""

    name: str  # the lease's owner
    devices: tuple[str, ...]  # of one trial
    threads: int  # for each device
    checkpoint_seconds: float
    cache: BlobCache
    memory_bytes: int | None = None
    silence_seconds: float = math.inf  # a runner without a message for this long counts as hung
    roots: Roots = field(default_factory=Roots)  # below which trials may read by reference
    fork_server: ForkServer | None = None  # without it, each runner loads torch by itself
    tally: Tally = field(default_factory=Tally)  # of the worker
    is_contained: bool = True  # whether runners are kept to what their trial needs

    def spawn(self) -> Runner:
        """A new runner on this slot's devices, which waits for its trial."""
        return Runner(threads=self.threads, devices=self.devices, fork_server=self.fork_server)


def supervise(
    sessions: Sessions, settings: Settings, lease: Lease, slot: Slot, runner: Runner, draining: threading.Event
) -> State | None:
    """Run the trial until it ends, is interrupted, or the lease is lost.

    Args:
        runner: one that has not begun. It is closed at the end.
        draining: set when the worker shuts down.

    Returns:
        The state of the trial at the end; None if the lease was lost.
    """
    named = {"trial_id": str(lease.trial_id), "attempt": lease.attempt, "worker": lease.owner}
    span = traces.begin("attempt", parent=lease.traceparent, **named)
    with span.active():
        attempt = AttemptSupervisor(sessions, settings, lease, slot, runner, draining)
        try:
            with attempt.heartbeat:
                try:
                    state = attempt.run()
                except LeaseLost:
                    raise
                except Exception as error:
                    log.exception("trial %s: the supervisor failed", lease.trial_id)
                    state = attempt.requeue(f"its supervisor failed with {type(error).__name__}: {error}")
        except LeaseLost:
            log.warning("trial %s: the lease was lost; this attempt ends and writes nothing more", lease.trial_id)
            span.fail("the lease was lost")
            return None
        finally:
            runner.close()
        end = attempt.interruption if state is State.queued else state.value
        slot.tally.ended(end)
        span.note(end=end)
        if end in ("failed", "interrupted"):
            span.fail(end)
        return state


class AttemptSupervisor:
    """Passes messages between one runner and the database. Use `supervise`, which also ends both properly.

    Attributes:
        interruption: how the attempt ended, as the counter `attempts_ended` calls it, if the trial is queued again.
    """

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
        self._desired = Desired.run  # as the last recording returned it
        self._buffer = RecordBuffer(runner.directory, max_bytes=settings.max_blob_bytes)
        self._max_bytes = settings.max_blob_bytes
        self._traces = ""  # the name of the traces in the cache
        self._flush_at = 0.0
        self._unavailable = False  # the database or the object store did not answer the last recording
        self.interruption = "yielded"
        self._steps = StepSpans()
        self._hung = ""  # the reason, if the runner is killed because it hangs
        self._crash: str | None = None  # what ended the runner, if another one may end the same way

    def run(self) -> State:
        """Run the trial and return its state at the end.

        Raises:
            LeaseLost: the lease is not valid any more, and another worker may run the trial.
        """
        try:
            with traces.begin("prepare").active():
                devices, splits = self._persist(self._materialize)
                self._provide(splits)
        except _Interrupted:
            return self._end(Ended(step=0, stopped=True), "")  # its runner has not begun, so nothing is lost
        except Unavailable as error:
            return self.requeue(str(error))
        except NestorError as error:
            return self._fail(error.problem())
        directory = self._runner.directory.parent.name  # the process may not exist yet
        log.info("trial %s: attempt %d in %s", self._lease.trial_id, self._lease.attempt, directory)
        self._runner.begin(devices)
        self._steps.begin()
        try:
            last = self._listen(self._runner)
            interrupted = ""
            if last is None:
                interrupted = self._hung or self._runner.exit_reason()
                self._crash = "silence" if self._hung else self._runner.crash_signal()
            self._flush_all()
        except ChannelBroken as error:
            last, interrupted = None, f"its runner sent an invalid message: {error}"
        finally:
            self._steps.end()
            self._fill_cache()  # before the trial ends, because a similar trial may begin right then
        if isinstance(last, Failed):
            return self._fail(NestorError.from_problem(asdict(last)).problem())
        return self._end(last, interrupted)

    def requeue(self, reason: str, *, paid_from: LeaseBudget | None = "restarts") -> State:
        """End the attempt before the trial has ended, as `leases.requeue` does, and return the trial's state.

        Raises:
            LeaseLost: as `run`.
        """
        self.interruption = {"restarts": "interrupted", "preemptions": "shutdown", None: "yielded"}[paid_from]
        crash = self._crash if paid_from == "restarts" else None
        return self._persist(
            lambda session: leases.requeue(session, self._lease, reason, paid_from=paid_from, crash=crash)
        )

    def _fill_cache(self) -> None:
        """Store the newest checkpoint for the trial's next attempt, and its traces for similar trials."""
        with suppress(ChannelBroken):
            if (checkpoint := self._buffer.checkpoint()) is not None:
                self._slot.cache.add(checkpoint)
        with suppress(ChannelBroken):
            if self._traces:
                traces = channel.read_file(
                    self._runner.directory, workdir.TRACES, limit=min(self._max_bytes, MAX_TRACE_BYTES)
                )
                self._slot.cache.put_named(self._traces, traces)

    def _listen(self, runner: Runner) -> Ended | Failed | None:
        """Buffer and record the runner's messages. Returns the last one, or None if there will be none."""
        asked: Stop | None = None
        deadline = math.inf  # until which a runner that was asked to stop may run
        received_at = time.monotonic()
        while True:
            try:
                message = runner.inbox.get(timeout=FLUSH_SECONDS)
            except queue.Empty:
                if time.monotonic() - received_at > self._slot.silence_seconds:
                    self._hung = f"its runner sent nothing for {self._slot.silence_seconds:g} s"
                    return None
            else:
                received_at = time.monotonic()
                if message is None or isinstance(message, Ended | Failed):
                    return message
                self._buffer.add(message)
            if self.heartbeat.lost.is_set():
                raise LeaseLost(self._lease)
            if time.monotonic() >= self._flush_at or (not self._unavailable and self._buffer.is_large):
                self._flush()

            desired, drained = self._latest_desired(), self._draining.is_set()
            if desired is Desired.cancel:
                return None
            by_user = desired in lifecycle.OBEDIENCE
            if (by_user or drained or desired is Desired.preempt) and (asked is None or asked.evaluate < by_user):
                asked = Stop(evaluate=by_user)
                runner.send(asked)
            if drained or by_user:  # a preemption waits for a long step
                deadline = min(deadline, time.monotonic() + (DRAIN_SECONDS if drained else STOP_SECONDS))
            if runner.has_lost_a_process:
                deadline = min(deadline, time.monotonic() + LOST_SECONDS)
            if time.monotonic() > deadline:
                log.warning("trial %s: the runner did not stop in time and is killed", self._lease.trial_id)
                return None

    def _latest_desired(self) -> Desired:
        """Recordings return it more often than the heartbeat, which also reads it during a long step."""
        return self.heartbeat.desired if self._desired is Desired.run else self._desired

    def _end(self, last: Ended | None, interrupted: str) -> State:
        if last is not None and not last.stopped:
            return self._finish(State.complete, last.why)
        desired = self._persist(lambda session: leases.renew(session, self._lease))
        if desired in lifecycle.OBEDIENCE:
            obedience = lifecycle.OBEDIENCE[desired]
            return self._finish(obedience.transition.target, obedience.why)
        if self._draining.is_set():
            return self.requeue("its worker is shutting down", paid_from="preemptions")
        if last is None:
            return self.requeue(interrupted, paid_from="restarts")
        if desired is Desired.preempt:
            state, drains = self._persist(lambda session: leases.yield_device(session, self._lease))
            self.interruption = "drained" if drains else "yielded"
            return state
        return self.requeue("the stop was withdrawn", paid_from=None)

    def _finish(self, state: State, why: str) -> State:
        return self._persist(lambda session: leases.finish(session, self._lease, state, why=why))

    def _fail(self, problem: dict[str, Any]) -> State:
        return self._persist(
            lambda session: leases.finish(session, self._lease, State.failed, problem, why=problem["detail"])
        )

    def _materialize(self, session: Session) -> tuple[int, dict[str, Any]]:
        """Write the work directory. Returns the number of devices that the runner is to use, and the data's splits."""
        trial = session.get_one(Trial, self._lease.trial_id)
        slot = self._slot
        spec = materialize(
            session,
            trial,
            self._runner.directory,
            slot.cache,
            threads=slot.threads,
            checkpoint_seconds=slot.checkpoint_seconds,
            memory_bytes=slot.memory_bytes,
            file_bytes=self._max_bytes,
            roots=tuple(map(str, slot.roots.directories)),
            is_contained=slot.is_contained,
        )
        self._traces = spec.traces
        dataset = None if trial.dataset_id is None else session.get_one(Dataset, trial.dataset_id)
        return spec.devices, {} if dataset is None else dict(dataset.splits)

    def _provide(self, splits: dict[str, Any]) -> None:
        """Find the files that the trial reads by reference. It takes no transaction, because it may read them all.

        Raises:
            LeaseLost: as `run`.
            _Interrupted: the worker shuts down, or the user asked for an end.
            DatasetInvalid, Unavailable: as `references.provide`.
        """

        def check() -> None:
            if self.heartbeat.lost.is_set():
                raise LeaseLost(self._lease)
            if self._draining.is_set() or self._latest_desired() is not Desired.run:
                raise _Interrupted

        runner, slot = self._runner, self._slot
        placed = references.provide(splits, slot.roots, slot.cache, runner.objects, check)
        workdir.write_references(runner.directory, placed)

    def _flush(self, *, is_last: bool = False) -> bool:
        """Record one batch. Whether the buffer is empty now. Training continues if the database does not answer."""
        batch = self._buffer.batch()
        self._flush_at = time.monotonic() + FLUSH_SECONDS
        if not batch:
            return True
        try:
            with self._steps.recording(batch, is_last=is_last), self._sessions.begin() as session:
                desired = recording.record(session, self._lease, batch)
        except RETRYABLE_ERRORS as error:
            if not self._unavailable:
                log.warning("trial %s: cannot record now (%s); training continues", self._lease.trial_id, error)
            self._unavailable, self._flush_at = True, time.monotonic() + random.uniform(0.2, 1.0)
            return False
        self._desired, self._unavailable = desired, False
        self._buffer.recorded()
        self._slot.tally.recorded(batch)
        return not self._buffer.batch()

    def _flush_all(self) -> None:
        while not self._flush(is_last=True):
            if self.heartbeat.lost.is_set():
                raise LeaseLost(self._lease)
            if self._unavailable:
                time.sleep(max(0.0, self._flush_at - time.monotonic()))

    def _persist(self, write: Callable[[Session], T]) -> T:
        """Run one transaction. If the database does not answer, repeat it until the lease is lost.

        A commit whose response was lost is harmless: it ended the lease, so the repetition raises `LeaseLost`.
        """
        while True:
            try:
                with self._sessions.begin() as session:
                    return write(session)
            except RETRYABLE_ERRORS as error:
                if self.heartbeat.lost.is_set():
                    raise LeaseLost(self._lease) from error
                log.warning("trial %s: cannot record or read now (%s); trying again", self._lease.trial_id, error)
                time.sleep(random.uniform(0.2, 1.0))
