"""Data by reference on a worker: what may be read, whether it is unchanged, and how much memory it takes."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sqlalchemy import update
from torch import nn
from torch.nn import functional as F

import nestor
from nestor.data import Ref
from nestor.errors import DataRootInvalid, ReferenceNotAllowed
from nestor.remote.references import referenced
from nestor.schemas import DatasetCreate, Desired, EventType, State
from nestor_engine import optimize
from nestor_server.models import Program, Study, Trial
from nestor_server.scheduling import leases
from nestor_server.services.problems import datasets
from nestor_server.storage import blobs
from nestor_worker.supervisor.attempt import AttemptSupervisor, Slot, supervise
from nestor_worker.supervisor.blob_cache import BlobCache
from nestor_worker.supervisor.references import Roots
from tests.worker.trials import claim, events

MEMORY = 2**29  # torch alone takes more than half of it
N_FEATURES = 4096


def mean_loss(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.mse_loss(outputs.squeeze(-1), batch["y"])


def problem_of(train: Any, val: Any, test: Any = None, *, features: int = 3) -> nestor.Problem:
    model = nn.Linear(features, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    decay = nestor.hparams.L2(model, per="tensor", init=-3.0)
    return nestor.Problem(model, decay, mean_loss, mean_loss, train=train, val=val, test=test)


def columns(n: int, seed: int = 0, features: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator)
    return {"x": x, "y": x.sum(1) + torch.randn(n, generator=generator)}


@pytest.fixture
def slot(slot: Slot, tmp_path: Path) -> Slot:
    cache = BlobCache(tmp_path / "cache", 2**30)
    roots = Roots.of([str(tmp_path / "data")])
    (tmp_path / "data").mkdir()
    return dataclasses.replace(slot, checkpoint_seconds=0.001, cache=cache, roots=roots)


@pytest.fixture
def files(tmp_path: Path, slot: Slot) -> Path:
    """The directory that the worker may read, with a training and a validation file."""
    save_file(columns(60), tmp_path / "data" / "train.safetensors")
    np.save(tmp_path / "data" / "x.npy", columns(20, 1)["x"].numpy())
    return tmp_path / "data"


@pytest.fixture
def submit(sessions, new_trial) -> Callable[..., Trial]:
    """A queued trial of a problem, as a client records it."""

    def submit(problem: nestor.Problem, **config: Any) -> Trial:
        exported, trial = problem.export(), new_trial()
        with sessions.begin() as session:
            row = session.get_one(Trial, trial.id)
            owner = session.get_one(Study, row.study_id).owner_id
            graphs, tensors = (blobs.store(session, owner, data).digest for data in (exported.graphs, exported.tensors))
            digests = {
                split: blobs.store(session, owner, bytes(data)).digest for split, data in problem.data.save().items()
            }
            new = DatasetCreate(**digests | referenced(problem.data.mapped, digests))
            program = Program(owner_id=owner, graphs=graphs, tensors=tensors, torch="2.13")
            session.add(program)
            session.flush()
            row.dataset_id, row.program_id = datasets.create(session, owner, new).id, program.id
            what = {"program": str(row.program_id), "dataset": str(row.dataset_id)}
            row.n_steps = 3
            row.spec = {"problem": what, "n_steps": 3, "inner_steps": 2, "batch_size": 16, **config}
        return trial

    return submit


@pytest.fixture
def run(sessions, worker_settings) -> Callable[..., Trial]:
    """One attempt at a trial; the trial after it."""

    def run(trial: Trial, slot: Slot) -> Trial:
        supervise(sessions, worker_settings, claim(sessions, trial.id), slot, slot.spawn(), threading.Event())
        with sessions() as session:
            return session.get_one(Trial, trial.id)

    return run


def uri(path: Path) -> str:
    return path.as_uri()


def mixed(files: Path) -> nestor.Problem:
    """A split by reference, and one with a column by reference and an uploaded one."""
    y = columns(20, 1)["y"]
    return problem_of(nestor.data.ref(uri(files / "train.safetensors")), (nestor.data.ref(uri(files / "x.npy")), y))


def test_a_trial_by_reference_has_the_values_of_the_same_trial_by_value(files, slot, submit, run):
    by_value = problem_of(columns(60), columns(20, 1))
    trials = [run(submit(problem), slot) for problem in (mixed(files), by_value)]
    assert [trial.error for trial in trials] == [None, None]
    assert trials[0].value == trials[1].value
    config = nestor.Config(n_steps=3, inner_steps=2, batch_size=16)
    *_, last = optimize(by_value.bilevel(), by_value.data, config)
    assert trials[0].value == pytest.approx(last.val_loss, rel=1e-5)


def test_a_file_that_changed_fails_the_trial_also_after_a_pause(sessions, files, slot, submit, run):
    trial = run(submit(mixed(files)), slot)
    assert trial.state == State.complete
    with sessions.begin() as session:
        leases.extend(session, session.get_one(Trial, trial.id), 2, by="a test")
    save_file(columns(60, seed=5), files / "train.safetensors")
    trial = run(trial, slot)
    assert (trial.state, trial.step) == (State.failed, 3)
    assert trial.error is not None
    assert trial.error["code"] == "reference-changed"
    assert "train.safetensors' has changed since the data set was registered: its SHA-256 is" in trial.error["detail"]


@pytest.mark.parametrize(
    ("roots", "change", "code", "says"),
    [
        ([], None, "reference-not-allowed", "its operator allows no data by reference"),
        (["/elsewhere", "s3://bucket/a"], None, "reference-not-allowed", "allows /elsewhere, s3://bucket/a/"),
        (None, lambda path: path.unlink(), "reference-not-found", "read on the worker: there is no such file"),
        (None, lambda path: (path.unlink(), path.mkdir()), "reference-not-found", "it is a directory"),
        (None, lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "reference-not-allowed", "may not read"),
        (None, lambda path: os.truncate(path, 100), "reference-changed", "its SHA-256 is another one"),
    ],
    ids=["no roots", "other roots", "gone", "a directory", "a link out of the roots", "truncated"],
)
def test_a_worker_refuses_with_a_sentence(files, slot, submit, run, roots, change, code, says):
    trial = submit(mixed(files))
    if change is not None:
        change(files / "train.safetensors")
    object.__setattr__(slot, "roots", slot.roots if roots is None else Roots.of(roots))
    error = run(trial, slot).error
    assert error is not None
    assert error["code"] == code, error
    assert says in error["detail"]


def test_a_trial_that_yields_while_its_data_are_read_pays_nothing(files, slot, submit, sessions, worker_settings):
    trial = submit(mixed(files))
    lease, runner = claim(sessions, trial.id), slot.spawn()
    attempt = AttemptSupervisor(sessions, worker_settings, lease, slot, runner, threading.Event())
    attempt.heartbeat.desired = Desired.preempt
    with sessions.begin() as session:
        session.execute(update(Trial).where(Trial.id == trial.id).values(desired=Desired.preempt.value))
    assert attempt.run() is State.queued
    runner.close()
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.restarts, row.preemptions, row.desired) == (0, 0, "run")
        assert "preempted" in events(session, trial.id, EventType.state)[-1]["why"]


def test_a_link_within_the_roots_is_followed_and_roots_may_be_links(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    roots = Roots.of([str(tmp_path / "link"), "s3://bucket/prefix/"])
    assert roots.admit(Ref(f"file://{tmp_path}/data/x.npy")) == data / "x.npy"
    assert roots.admit(Ref(f"file://{tmp_path}/link/x.npy")) == data / "x.npy"
    assert roots.admit(Ref("s3://bucket/prefix/x.npy"))
    for refused in (f"file://{tmp_path}/data2/x.npy", "s3://bucket/prefix2/x.npy", "s3://other/prefix/x.npy"):
        with pytest.raises(ReferenceNotAllowed):
            roots.admit(Ref(refused))


@pytest.mark.parametrize("entry", ["data", "./data", "gs://bucket", "s3://", "file://data"])
def test_a_root_that_is_neither_a_directory_nor_a_bucket_is_refused(entry):
    with pytest.raises(DataRootInvalid, match="NESTOR_DATA_ROOTS cannot be used"):
        Roots.of([entry])


def test_a_data_set_of_four_times_the_memory_limit_is_tuned_on(tmp_path, files, slot, submit, run):
    path, n = files / "large.safetensors", 4 * MEMORY // (4 * N_FEATURES) + 1
    targets = torch.randn(n, generator=torch.Generator().manual_seed(0)).numpy()
    header = json.dumps(
        {
            "y": {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]},
            "x": {"dtype": "F32", "shape": [n, N_FEATURES], "data_offsets": [4 * n, 4 * n * (1 + N_FEATURES)]},
        }
    ).encode()
    with path.open("wb") as file:  # sparse: it takes no space on the disk
        file.write(len(header).to_bytes(8, "little") + header + targets.tobytes())
        start = file.tell()
        for row in range(0, n, 1_000):
            file.seek(start + 4 * N_FEATURES * row)
            file.write(np.full(N_FEATURES, 0.01, np.float32).tobytes())
        file.truncate(start + 4 * N_FEATURES * n)
    assert path.stat().st_size > 4 * MEMORY
    large = nestor.data.ref(uri(path))
    problem = problem_of(large, large, large, features=N_FEATURES)
    object.__setattr__(slot, "memory_bytes", MEMORY)
    trial = run(submit(problem, val_batch_size=200, evaluate_every=3), slot)
    assert trial.error is None
    assert (trial.state, trial.step) == (State.complete, 3)
