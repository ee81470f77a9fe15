"""The entries that a trial's snapshots record are those of its trajectory, also after interruptions and warm starts."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from sqlalchemy import select

from nestor.schemas import Preset, RecordedEntries, State, TrialCreate
from nestor.schemas.entries import COMPARED
from nestor_engine import Bilevel, Config, optimize
from nestor_server.models import Blob, Checkpoint, Snapshot, Study, Trial
from nestor_server.storage import blobs
from nestor_worker import workdir
from nestor_worker.channel import ChannelBroken, Stepped
from nestor_worker.channel import Snapshot as SnapshotMessage
from nestor_worker.runner import presets
from nestor_worker.runner.main import _warm_start
from nestor_worker.runner.recorder import TrialRecorder
from nestor_worker.supervisor.attempt import supervise
from nestor_worker.supervisor.buffer import RecordBuffer
from nestor_worker.supervisor.materialize import materialize
from nestor_worker.supervisor.runners.process import Runner
from nestor_worker.workdir import WorkSpec
from testbed.server import wait_for
from tests.worker.conftest import SPEC
from tests.worker.trials import claim

STEPS = 300  # enough that it is killed before its end
Recorded = dict[int, dict[str, Any]]


def run(sessions, worker_settings, slot, trial: Trial, happens: Callable[[Runner], None] | None = None) -> State | None:
    """One attempt; `happens` is called after its first checkpoint."""
    lease, runner = claim(sessions, trial.id), slot.spawn()

    def has_checkpoint() -> bool:
        with sessions() as session:
            return session.scalar(select(Checkpoint.step).where(Checkpoint.trial_id == trial.id)) is not None

    def disturb() -> None:
        wait_for(has_checkpoint, "a checkpoint")
        if happens is not None:
            happens(runner)

    watcher = threading.Thread(target=disturb)
    watcher.start()
    state = supervise(sessions, worker_settings, lease, slot, runner, threading.Event())
    watcher.join()
    return state


def recorded(sessions, trial: Trial) -> Recorded:
    with sessions() as session:
        rows = session.execute(select(Snapshot.step, Snapshot.entries).where(Snapshot.trial_id == trial.id))
        return {step: entries | {"k": None} for step, entries in rows}


def computed(start: dict[str, torch.Tensor] | None = None) -> Recorded:
    """From the engine's own trajectory."""
    spec = TrialCreate.model_validate(SPEC).model_dump(mode="json", include=set(Config.model_fields))
    problem = presets.build(Preset.model_validate(SPEC["problem"]["preset"]), seed=0)
    bilevel = problem.bilevel()
    bilevel = dataclasses.replace(bilevel, hparams=start or bilevel.hparams)
    states = {0: (bilevel.hparams, {})}
    for step in optimize(bilevel, problem.data, Config.model_validate(spec | {"n_steps": STEPS})):
        states[step.number] = (step.state.hparams, step.state.previous)
    found: Recorded = {}
    k = RecordedEntries.per_order([value.numel() for value in bilevel.hparams.values()])
    for number, (hparams, gradient) in states.items():
        tensors, moved = dict[str, Any](), dict[str, float]()
        found[number] = {"k": None, "tensors": tensors, "moved": moved}
        for name, value in hparams.items():
            assert value.numel() <= COMPARED  # so that only the gradients are recorded
            used, began = (transformed(bilevel, name, of) for of in (value, bilevel.hparams[name]))
            moved[name] = sum(abs(a - b) > 0.1 * abs(b) for a, b in zip(used, began, strict=True)) / len(used)
            if gradient:
                slopes = gradient[name].double().flatten().tolist()
                first = sorted(range(len(slopes)), key=lambda i: (-abs(slopes[i]), i))[:k]
                tensors[name] = {"index": sorted(first), "gradient": [slopes[i] for i in sorted(first)]}
    return found


def transformed(bilevel: Bilevel, name: str, value: torch.Tensor) -> list[float]:
    """The entries as the losses read them, in Python's numbers."""
    function = {"exp": math.exp, "identity": float}[bilevel.transforms.get(name, "identity")]
    return [function(entry) for entry in value.double().flatten().tolist()]


def assert_all_are_of(found: Recorded, expected: Recorded) -> None:
    """Of a long trial, not every step has a snapshot."""
    assert {0, STEPS} <= found.keys()
    assert found == {step: expected[step] for step in found}
    moved = {step: sum(entries["moved"].values()) for step, entries in found.items()}
    assert moved[0] == 0 < moved[STEPS]


def test_every_snapshot_has_the_entries_of_its_step_and_an_interruption_changes_none(
    sessions, worker_settings, new_trial, slot
):
    slot = dataclasses.replace(slot, checkpoint_seconds=0.05)
    whole, interrupted = (new_trial(n_steps=STEPS, spec=SPEC | {"n_steps": STEPS}) for _ in range(2))
    assert run(sessions, worker_settings, slot, whole) is State.complete
    assert_all_are_of(recorded(sessions, whole), computed())

    kill = lambda runner: os.kill(runner.pid, signal.SIGKILL)
    assert run(sessions, worker_settings, slot, interrupted, kill) is State.queued
    assert run(sessions, worker_settings, slot, interrupted) is State.complete
    assert recorded(sessions, interrupted) == recorded(sessions, whole)


def test_a_warm_started_trial_counts_changes_from_where_it_started(sessions, worker_settings, new_trial, slot):
    problem = presets.build(Preset.model_validate(SPEC["problem"]["preset"]), seed=0)
    generator = torch.Generator().manual_seed(0)
    start = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in problem.bilevel().hparams.items()
    }
    slot = dataclasses.replace(slot, checkpoint_seconds=0.05)
    trial = new_trial(n_steps=STEPS)
    with sessions.begin() as session:
        row = session.get_one(Trial, trial.id)
        owner = session.get_one(Study, row.study_id).owner_id
        blob = blobs.store(session, owner, safetensors.torch.save(start))
        row.start_blob_id = blob.id
        warm = {"trial": str(trial.id), "weights": False}
        row.spec = SPEC | {"n_steps": STEPS, "warm_start": warm}
    assert run(sessions, worker_settings, slot, trial) is State.complete
    assert_all_are_of(recorded(sessions, trial), computed(start))


def test_an_attempt_that_continues_gets_the_hyperparameters_from_which_the_trial_began(
    sessions, worker_settings, new_trial, slot, tmp_path
):
    """A package on another worker may give other initial values."""
    trial = new_trial(n_steps=STEPS, spec=SPEC | {"n_steps": STEPS})

    def written() -> set[str]:
        with sessions() as session:
            row = session.get_one(Trial, trial.id)
            materialize(session, row, tmp_path, slot.cache, threads=1, checkpoint_seconds=60)
        return {path.name for path in tmp_path.iterdir()}

    assert workdir.INITIAL not in written()
    assert run(sessions, worker_settings, dataclasses.replace(slot, checkpoint_seconds=0.05), trial) is State.complete
    assert workdir.INITIAL in written()
    with sessions() as session:
        first = select(Blob).join(Snapshot).where(Snapshot.trial_id == trial.id, Snapshot.step == 0)
        data = blobs.load(session, session.scalars(first).one())
    assert (tmp_path / workdir.INITIAL).read_bytes() == data
    bilevel = presets.build(Preset.model_validate(SPEC["problem"]["preset"]), seed=0).bilevel()
    other = dataclasses.replace(bilevel, hparams={name: value + 1 for name, value in bilevel.hparams.items()})
    began = _warm_start(other, tmp_path, WorkSpec.read(tmp_path)).hparams
    assert all(torch.equal(began[name], value) for name, value in bilevel.hparams.items())


def test_the_best_step_that_is_written_late_has_its_own_gradient(tmp_path: Path):
    """Its snapshot is written with a later checkpoint, when the state has gone on."""
    problem = presets.build(Preset.model_validate(SPEC["problem"]["preset"]), seed=0)
    config = Config(n_steps=1_000, evaluate_every=1)
    spec = WorkSpec({}, None, None, None, None, threads=1, checkpoint_seconds=1e6)
    messages: list[Any] = []
    recorder = TrialRecorder(tmp_path, spec, config, messages.append, problem.bilevel())
    recorder._snapshots._every = 100  # as if the snapshot was large
    recorder.begin(None, "cpu")
    gradients, values = {}, {}
    for step in optimize(problem.bilevel(), problem.data, config):
        recorder.record(step)
        gradients[step.number], values[step.number] = step.state.previous, step.value
        if step.number == 12:
            break
    recorder.end(stopped=True)
    best = min(values, key=lambda number: values[number])
    snapshots = {message.step: message for message in messages if isinstance(message, SnapshotMessage)}
    assert set(snapshots) == {0, best, 12}
    assert len([message for message in messages if isinstance(message, Stepped)]) == 12
    for number in {best, 12}:
        for name, entries in (snapshots[number].entries or {})["tensors"].items():
            expected = gradients[number][name].flatten()[entries["index"]].tolist()
            assert entries["gradient"] == expected


ONE = {"index": [0], "gradient": [0.5]}


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"k": 1},
        {"k": 0, "tensors": {}},
        {"k": 33, "tensors": {}},
        {"k": 1, "tensors": {"w": {}}},
        {"k": 1, "tensors": {"w": ONE | {"index": [-1]}}},
        {"k": 1, "tensors": {"w": ONE | {"gradient": [0.5, 1.0]}}},
        {"k": 1, "tensors": {"w": ONE | {"more": 1}}},
        {"k": 1, "tensors": {"w": {"index": list(range(129)), "gradient": None}}},
        {"k": 1, "tensors": {}, "moved": {"w": 1.5}},
        {"k": 1, "tensors": {}, "moved": {"w": math.nan}},
        {"k": 32, "tensors": {f"w{i}": {"index": list(range(128)), "gradient": None} for i in range(65)}},
    ],
    ids=lambda entries: str(entries)[:50],
)
def test_a_runner_cannot_record_other_entries_or_more(tmp_path: Path, entries: dict[str, Any]):
    with pytest.raises(ValidationError):
        RecordedEntries.model_validate(entries)
    with pytest.raises(ChannelBroken):
        RecordBuffer(tmp_path, max_bytes=100).add(SnapshotMessage(0, "snapshot-0", entries=entries))
