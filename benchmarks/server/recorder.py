"""What a worker does to a trial, without training: it claims it, records steps, and finishes it.

As a helper (`python -m benchmarks.server.recorder`) it records steps at a steady rate, and notes when it commits each.
"""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import numpy as np
from safetensors.numpy import save
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from benchmarks.server import filling, helper
from nestor import schemas
from nestor.schemas import HyperparameterInfo, State
from nestor_server import database, models
from nestor_server.database import Sessions
from nestor_server.scheduling import leases, recording
from nestor_server.services.access import tokens
from nestor_server.services.trials import actions
from nestor_server.settings import Settings
from testbed.api import ENDLESS, spec_of

RETRY_SECONDS = 0.1  # until a batch that the database did not take is sent again


class Recorder:
    """A trial of the user of `token`, claimed in the transaction that created it, so that no worker takes it."""

    def __init__(self, sessions: Sessions, token: str, study: str) -> None:
        self.sessions, self.number, self._batch = sessions, 0, 0
        with sessions.begin() as session:
            caller = tokens.authenticate(session, token)
            new = schemas.TrialCreate.model_validate(spec_of(ENDLESS))
            self.id = actions.create(session, caller, UUID(study), new).id
            lease = leases.claim(session, self.id, "benchmark")
            assert lease is not None
        self._lease = lease

    @property
    def path(self) -> str:
        return f"/trials/{self.id}"

    def step(self) -> None:
        """Record the next step; again if the database did not take it, which has no effect if it did."""
        self.number += 1
        self._record(steps=(filling.step(self.number),))

    def fill(self, n: int) -> None:
        """Record `n` steps as the first ones, by one statement."""
        with self.sessions.begin() as session:
            filling.steps(session, self.id, n)
        self.number = n

    def snapshot(self, size: int) -> None:
        """Record a step, and a snapshot of `size` numbers in one tensor, "weights"."""
        self.step()
        values = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
        info = HyperparameterInfo(name="weights", shape=values.shape, dtype="float32", transform="exp")
        file = recording.TensorFile(self.number, save({"weights": values}))
        self._record(snapshots=(file,), hyperparameters=(info,))

    def _record(self, **batch: Any) -> None:
        self._batch += 1
        while True:
            try:
                with self.sessions.begin() as session:
                    leases.renew(session, self._lease)
                    recording.record(session, self._lease, recording.RecordedBatch(number=self._batch, **batch))
                return
            except DBAPIError:
                time.sleep(RETRY_SECONDS)

    def finish(self) -> None:
        with self.sessions.begin() as session:
            leases.finish(session, self._lease, State.complete)

    def numbers(self) -> dict[int, int]:
        """The step of each number in the event log that is one."""
        query = select(models.Step.seq, models.Step.number).where(models.Step.trial_id == self.id)
        with self.sessions() as session:
            return {row.seq: row.number for row in session.execute(query)}

    def last(self) -> int:
        """The last number of the event log."""
        with self.sessions() as session:
            return session.scalars(select(models.Trial.seq).where(models.Trial.id == self.id)).one()


def connect(settings: dict[str, Any]) -> Sessions:
    """Sessions of these settings' database, apart from those that the observer counts."""
    ours = Settings(**settings)
    return database.make_sessions(database.make_engine(ours, "benchmark"), ours)


def main() -> None:
    given = helper.options()
    sessions = connect(given["settings"])
    following = helper.messages()
    recorder, commits, due, pause = None, dict[int, float](), 0.0, 0.0
    while True:
        message = following(60.0 if recorder is None else due - time.monotonic())
        if message is None:
            if recorder is not None:
                due = max(due + pause, time.monotonic())
                commits[recorder.number + 1] = time.monotonic()
                recorder.step()
        elif rate := message.get("rate"):
            recorder = Recorder(sessions, message["token"], message["study"])
            if backlog := message.get("backlog"):
                recorder.fill(backlog)
            commits, due, pause = {}, time.monotonic(), 1 / rate
            helper.answer({"path": recorder.path, "last": recorder.last()})
        else:
            assert recorder is not None
            recorder.finish()
            times = {seq: commits[number] for seq, number in recorder.numbers().items() if number in commits}
            helper.answer({"commits": times, "last": recorder.last()})
            recorder = None


if __name__ == "__main__":
    main()
