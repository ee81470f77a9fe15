"""REST requests about trials under faults, and what the database holds about these trials."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import httpx
from sqlalchemy import func, select

from nestor.errors import IllegalTransition, NestorError
from nestor_server.models import Blob, Checkpoint, Event, Result, Snapshot, Step, Trial
from nestor_server.storage import blobs
from testbed.server import Server, wait_for

PRESET = {"model": {"kind": "mlp", "hidden": [8]}, "train_size": 100, "val_size": 50}
ENDLESS = 1_000_000


class Api:
    """REST requests of one user, and database queries about that user's trials."""

    def __init__(self, http: httpx.Client, server: Server) -> None:
        self._http, self.server = http, server
        self.study = self.new_study()

    def new_study(self) -> str:
        return self._post("/studies", {"name": f"end to end {uuid4()}"})["id"]

    @property
    def token(self) -> str:
        return self._http.headers["Authorization"].removeprefix("Bearer ")

    def submit(self, n_steps: int, *, study: str | None = None, **fields: Any) -> str:
        return self._post(f"/studies/{study or self.study}/trials", spec_of(n_steps) | fields)["id"]

    def trial(self, trial_id: str) -> dict[str, Any]:
        return self._http.get(f"/trials/{trial_id}").raise_for_status().json()

    def ask(self, trial_id: str, what: str, body: Any = None) -> dict[str, Any]:
        return self._post(f"/trials/{trial_id}/{what}", body)

    def request(self, trial_id: str, what: str, *, refused: bool = False) -> bool:
        """Request a state change that may come too late; return whether it was accepted.

        Raises:
            IllegalTransition: The request came too late, and `refused` expects that.
        """
        answer = self._http.post(f"/trials/{trial_id}/{what}")
        if answer.is_success:
            return True
        error = NestorError.from_problem(answer.json())
        assert isinstance(error, IllegalTransition), answer.text
        if refused:
            raise error
        return False

    def until(self, trial_id: str, *states: str, seconds: float = 120) -> dict[str, Any]:
        wait_for(lambda: self.trial(trial_id)["state"] in states, f"the trial to be {states}", seconds=seconds)
        return self.trial(trial_id)

    def until_a_new_checkpoint(self, trial_id: str) -> dict[str, Any]:
        """The running trial, after its next checkpoint."""
        past = self.checkpoints(trial_id)[-1:]
        wait_for(lambda: self.checkpoints(trial_id)[-1:] > past, f"a checkpoint past {past}")
        trial = self.trial(trial_id)
        assert trial["state"] == "running", "the trial ended before the fault: give it more steps, or slow it down"
        return trial

    def until_another_attempt(self, trial_id: str, attempt: int) -> None:
        wait_for(lambda: self.trial(trial_id)["attempt"] > attempt, "another attempt", seconds=120)

    def checkpoints(self, trial_id: str) -> list[int]:
        return self._read(
            select(Checkpoint.step).where(Checkpoint.trial_id == UUID(trial_id)).order_by(Checkpoint.step)
        )

    def events(self, trial_id: str, type: str) -> list[dict[str, Any]]:
        return self._read(
            select(Event.data).where(Event.trial_id == UUID(trial_id), Event.type == type).order_by(Event.seq)
        )

    def expect_whole(self, trial_id: str, n_steps: int) -> None:
        """Each step exists once, no sequence number repeats, and the first and last snapshots are kept."""
        trial = UUID(trial_id)
        assert self._read(select(Step.number).where(Step.trial_id == trial).order_by(Step.number)) == list(
            range(1, n_steps + 1)
        )
        seqs = [seq for table in (Step, Event) for seq in self._read(select(table.seq).where(table.trial_id == trial))]
        assert len(set(seqs)) == len(seqs)
        snapshots = self._read(select(Snapshot.step).where(Snapshot.trial_id == trial))
        assert {0, n_steps} <= set(snapshots)

    def steps(self, trial_id: str) -> list[dict[str, Any]]:
        """The records of all steps, without what depends on a clock."""
        found = self._read(select(Step.data).where(Step.trial_id == UUID(trial_id)).order_by(Step.number))
        return [without_clock(step) for step in found]

    def last_checkpoint(self, trial_id: str) -> bytes:
        newest = (
            select(Blob).join(Checkpoint).where(Checkpoint.trial_id == UUID(trial_id)).order_by(Checkpoint.step.desc())
        )
        with self.server.sessions() as session:
            return blobs.load(session, session.scalars(newest.limit(1)).one())

    def unused_blobs(self) -> int:
        """The number of blobs that nothing refers to."""
        columns = (Snapshot.blob_id, Checkpoint.blob_id, Result.blob_id, Trial.start_blob_id)
        used = [select(column) for column in columns]
        named = used[0].union(*used[1:]).subquery()
        return self._read(
            select(func.count()).where(Blob.complete, ~select(named).where(named.c[0] == Blob.id).exists())
        )[0]

    def _read(self, query: Any) -> list[Any]:
        with self.server.sessions() as session:
            return list(session.scalars(query))

    def _post(self, path: str, body: Any) -> dict[str, Any]:
        answer = self._http.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()


def without_clock(step: dict[str, Any]) -> dict[str, Any]:
    """`step` without its duration and without `traced`, which depends on timing and does not change numbers."""
    return {name: value for name, value in step.items() if name not in ("seconds", "traced")}


def spec_of(n_steps: int) -> dict[str, Any]:
    return {
        "problem": {"preset": PRESET},
        "n_steps": n_steps,
        "inner_steps": 1,
        "outer": {"optimizer": "adam", "lr": 0.1},  # a rate that does not depend on the number of steps
    }
