"""One trial on either backend, moved step by step: in this process, and on a server whose worker a test plays."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import nestor
import nestor_engine
from nestor import Client, lifecycle, schemas
from nestor.errors import NestorError
from nestor.lifecycle import UserAction
from nestor.local.backend import Local
from nestor.schemas import Desired, Event, EventPage, State
from nestor.study import submission
from nestor_server.models import Trial
from nestor_server.scheduling import leases, recording
from nestor_worker.channel import Ended, Message
from nestor_worker.runner.recorder import TrialRecorder
from nestor_worker.supervisor.buffer import RecordBuffer
from nestor_worker.workdir import WorkSpec
from testbed.server import Server
from tests.client.problems import ridge, squared_error

N_STEPS = 2
REASON = "not today"


def config(n_steps: int) -> nestor.Config:
    return nestor.Config(n_steps=n_steps, inner=nestor.Adam(0.05), inner_steps=1, outer=nestor.RMSprop(0.05))


SPEC = submission(config(N_STEPS))


class Player(ABC):
    """What a user and a worker do to one trial. A step is under way from `claim` on, until the worker goes on."""

    backend: Local | Client
    trial: UUID

    @abstractmethod
    def claim(self) -> None:
        """A worker begins an attempt."""

    @abstractmethod
    def obey(self) -> None:
        """The worker finishes the step under way and does what is desired."""

    @abstractmethod
    def complete(self) -> None:
        """The worker takes all steps that are left."""

    @abstractmethod
    def fail(self) -> None:
        """The step under way fails."""

    @abstractmethod
    def events(self) -> list[Event]: ...

    @property
    def record(self) -> schemas.Trial:
        return self.backend.trial(self.trial)

    def attempts(self) -> list[schemas.Attempt]:
        return self.backend.attempts(self.trial)

    def do(self, action: UserAction) -> schemas.Trial:
        """The user asks for `action`."""
        return self.backend.extend(self.trial, 3) if action == "extend" else self.backend.request(self.trial, action)

    def ask(self, action: UserAction) -> tuple[Any, ...]:
        """What the user is answered: the trial, or an error."""
        try:
            return standing(self.do(action))
        except NestorError as error:
            return type(error).__name__, str(error)

    def play(self, move: str) -> None:
        """One move, of the worker or of the user."""
        if move in lifecycle.MEANINGS:
            self.do(move)
        else:
            getattr(self, move)()

    def settle(self) -> None:
        """Let the worker go on until it has nothing left to do."""
        if self.record.state is State.queued:
            self.claim()
        if self.record.state is State.running:
            self.complete() if self.record.desired is Desired.run else self.obey()


def standing(trial: schemas.Trial) -> tuple[Any, ...]:
    """Where a trial stands, without what is another's in each place: ids, times, names."""
    error = None if trial.error is None else {k: v for k, v in trial.error.items() if k != "request_id"}
    best = (trial.best_step, trial.best_value)
    finished = trial.finished_at is not None
    counted = (trial.step, trial.n_steps, trial.value, *best, trial.attempt)
    return trial.state, trial.desired, trial.allowed_actions, *counted, error, finished


class InProcess(Player):
    """The loss waits at a gate, so that a step stays under way; a lock is held, so that nobody takes the next one."""

    def __init__(self) -> None:
        self._open, self._waiting, self._failing = threading.Event(), threading.Event(), False
        problem = ridge()
        problem.train_loss = self._loss
        self.backend = backend = Local()
        study = backend.create_study(schemas.StudyCreate(name=f"study {uuid4()}"))
        self.trial = backend.submit(study.id, problem, config(N_STEPS), SPEC, watched=True).id
        self._played = backend._trial(self.trial)
        self._played._driving.acquire()

    def _loss(self, outputs: Any, batch: Any) -> Any:
        self._waiting.set()
        assert self._open.wait(60)
        if self._failing:
            raise RuntimeError(REASON)
        return squared_error(outputs, batch)

    def claim(self) -> None:
        self._open.clear()
        self._waiting.clear()
        if not self._played.in_background:
            self._played.start()
        self._played._driving.release()
        assert self._waiting.wait(60)

    def obey(self) -> None:
        self._open.set()
        self._played.join()
        self._played._driving.acquire()

    complete = obey

    def fail(self) -> None:
        self._failing = True
        self.obey()
        self._failing = False

    def events(self) -> list[Event]:
        return list(self.backend.events(self.trial))


class OnServer(Player):
    """The engine, the recorder and the buffer of a runner and its supervisor, and the leases of a real database."""

    def __init__(self, server: Server, client: Client, directory: Path) -> None:
        self.backend, self._client, self._server, self._directory = client, client, server, directory
        study = client.create_study(schemas.StudyCreate(name=f"study {uuid4()}"))
        # The test is the worker and trains a problem of its own, whichever is named here.
        preset = schemas.PresetProblem(preset=schemas.Preset())
        self.trial = client.create_trial(study.id, SPEC.model_copy(update={"problem": preset})).id
        self._state: nestor_engine.State | None = None  # at the newest checkpoint
        self._last: Ended | None = None

    def claim(self) -> None:
        with self._server.sessions.begin() as session:
            lease = leases.claim(session, self.trial, "worker")
            row = session.get_one(Trial, self.trial)
            n_steps, best = row.n_steps, (row.best_step, row.best_value)
        assert lease is not None
        self._lease, self._buffer = lease, RecordBuffer(self._directory, max_bytes=2**20)
        spec = WorkSpec({}, None, *best, None, threads=1, checkpoint_seconds=60)
        problem, how = ridge(), config(n_steps)
        ending = lambda: self.record.desired in (Desired.stop, Desired.pause, Desired.prune)
        self._steps = nestor_engine.optimize(problem.bilevel(), problem.data, how, self._state, ending=ending)
        self._trajectory = TrialRecorder(self._directory, spec, how, self._send, problem.bilevel())
        self._trajectory.begin(self._state, "cpu")
        self._flush()

    def obey(self) -> None:
        self._take()
        self._trajectory.end(stopped=True)
        self._flush()
        with self._server.sessions.begin() as session:
            obedience = lifecycle.OBEDIENCE[leases.renew(session, self._lease)]
            leases.finish(session, self._lease, obedience.transition.target, why=obedience.why)

    def complete(self) -> None:
        while self._take():
            pass
        self._trajectory.end(stopped=False)
        self._flush()
        assert self._last is not None
        with self._server.sessions.begin() as session:
            leases.finish(session, self._lease, State.complete, why=self._last.why)

    def fail(self) -> None:
        problem = lifecycle.failure(RuntimeError(REASON)).problem()
        with self._server.sessions.begin() as session:
            leases.finish(session, self._lease, State.failed, problem, why=problem["detail"])

    def events(self) -> list[Event]:
        path, accepted = f"/trials/{self.trial}/events", {"Accept": "application/json"}
        answer = self._client._transport.request("GET", path, headers=accepted)
        return list(EventPage.model_validate_json(answer.content).items)

    def _take(self) -> bool:
        step = next(self._steps, None)
        if step is not None:
            self._trajectory.record(step)
            self._state = step.state
        return step is not None

    def _send(self, message: Message) -> None:
        if isinstance(message, Ended):
            self._last = message
        else:
            self._buffer.add(message)

    def _flush(self) -> None:
        while batch := self._buffer.batch():
            with self._server.sessions.begin() as session:
                recording.record(session, self._lease, batch)
            self._buffer.recorded()
