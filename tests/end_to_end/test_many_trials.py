"""More trials than devices: one runner per device that waits for the next trial, and time slices.

Time slices do not change a trajectory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from nestor.schemas import Preset, TrialCreate
from nestor_engine import Config, optimize
from nestor_server import models
from nestor_worker.runner import presets
from testbed.api import ENDLESS, PRESET, Api, spec_of
from testbed.server import Server, wait_for
from testbed.worker import Worker, running_worker

SHORT, LONG = 60, 400  # steps


@pytest.fixture(scope="module")
def worker(server: Server) -> Iterator[Worker]:
    """A worker with two device names that torch does not find, so it runs on the CPU."""
    with running_worker(server, CUDA_VISIBLE_DEVICES="0,1", NESTOR_CHECKPOINT_SECONDS=60) as worker:
        yield worker


def device_of(runner: int) -> str:
    entries = Path(f"/proc/{runner}/environ").read_bytes().split(b"\0")
    return dict(entry.decode().split("=", 1) for entry in entries if entry)["CUDA_VISIBLE_DEVICES"]


def end_slice(server: Server, trial: str) -> None:
    """Make the trial look as if it had run for a long time."""
    with server.sessions.begin() as session:
        ago = func.now() - timedelta(seconds=server.settings.slice_seconds + 1)
        session.execute(update(models.Trial).where(models.Trial.id == UUID(trial)).values(claimed_at=ago))


def trials_by_slot(server: Server) -> dict[str, str]:
    """Device → the trial that its slot reports."""
    with server.sessions() as session:
        slots = session.execute(select(models.Worker.device, models.Worker.trial_id))
        return {device: str(trial) for device, trial in slots}


def test_three_trials_share_two_devices_and_each_has_the_trajectory_of_one_that_runs_alone(
    api: Api, server: Server, worker: Worker
):
    spec = TrialCreate.model_validate(spec_of(LONG)).model_dump(mode="json", include=set(Config.model_fields))
    problem = presets.build(Preset.model_validate(PRESET), seed=0)
    alone = list(optimize(problem.bilevel(), problem.data, Config(**spec)))

    wait_for(lambda: len(worker.waiting()) == 2, "two runners in waiting")
    assert {device_of(runner) for runner in worker.waiting()} == {"0", "1"}
    steps = {api.submit(n): n for n in (SHORT, LONG, SHORT)}
    _, long, _ = steps
    wait_for(lambda: [api.trial(trial)["state"] for trial in steps] == ["running", "running", "queued"], "two to run")
    # A slot's own row follows with the next heartbeat, by when a short trial may have ended.
    wait_for(lambda: long in trials_by_slot(server).values(), "the long one's slot to say so")
    assert trials_by_slot(server).keys() == {"0", "1"}
    end_slice(server, long)

    for trial, n in steps.items():
        record = api.until(trial, "complete", "failed")
        assert (record["error"], record["restarts"], record["preemptions"]) == (None, 0, 0)
        api.expect_whole(trial, n)
        assert [step["val_loss"] for step in api.steps(trial)] == [step.val_loss for step in alone[:n]]
        assert api.last_checkpoint(trial) == alone[n - 1].state.save()
        assert api.events(trial, "rewind") == []
    turns = [(event["state"], event["why"]) for event in api.events(long, "state")]
    assert [state for state, _ in turns] == ["queued", "running", "queued", "running", "complete"]
    assert turns[2][1] == "preempted: its time slice is over, and other trials wait"

    cached = {file.name.removeprefix("sha256-") for file in (worker.log.parent / "cache").iterdir()}
    assert {hashlib.sha256(api.last_checkpoint(trial)).hexdigest() for trial in steps} <= cached


def test_the_next_runner_of_a_slot_waits_before_the_next_trial_is_submitted(api: Api, worker: Worker):
    wait_for(lambda: len(worker.waiting()) == 2, "two runners in waiting")
    running = [api.submit(ENDLESS), api.submit(ENDLESS)]
    for trial in running:
        wait_for(lambda trial=trial: api.trial(trial)["step"] > 0, "a step")
    wait_for(lambda: len(worker.waiting()) == 2, "the next runner of each slot")
    ready = {Path(f"/proc/{pid}/cwd").readlink().parent.name for pid in worker.waiting()}
    assert len(ready) == 2
    following = api.submit(SHORT)
    api.ask(running[0], "cancel")
    api.until(following, "complete")
    assert directory_of(following, worker) in ready
    api.ask(running[1], "cancel")


def directory_of(trial: str, worker: Worker) -> str:
    """The name of the work directory of the trial's only attempt."""
    (directory,) = re.findall(rf"trial {trial}: attempt 1 in (\S+)", worker.log.read_text())
    return directory
