"""One attempt, supervised in this process: with a real database and a real runner."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from nestor.errors import InvalidInput
from nestor.schemas import State
from nestor_server.models import Dataset, Program, Study, Trial
from nestor_server.scheduling import leases
from nestor_worker import workdir
from nestor_worker.options import LEAST_MEMORY, Options, devices, memory
from nestor_worker.supervisor.attempt import supervise
from testbed.server import wait_for
from tests.worker.trials import claim, expire


def workdirs() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(f"{workdir.prefix(os.getpid())}*"))


def test_a_problem_whose_blobs_are_missing_fails_with_an_error_message(sessions, worker_settings, new_trial, slot):
    trial, gone = new_trial(), "sha256:" + "0" * 64
    with sessions.begin() as session:
        row = session.get_one(Trial, trial.id)
        owner = session.get_one(Study, row.study_id).owner_id
        program = Program(owner_id=owner, graphs=gone, tensors=gone, torch="2.13")
        dataset = Dataset(owner_id=owner, splits={"train": gone, "val": gone}, sizes={"train": 1, "val": 1})
        session.add_all([program, dataset])
        session.flush()
        row.program_id, row.dataset_id = program.id, dataset.id
    lease = claim(sessions, trial.id)
    assert supervise(sessions, worker_settings, lease, slot, slot.spawn(), threading.Event()) is State.failed
    with sessions() as session:
        error = session.get_one(Trial, trial.id).error
        assert error is not None
        assert error["code"] == "blob-not-found"
        assert gone in error["detail"]


def test_a_supervisor_that_lost_its_lease_ends_its_runner_and_writes_nothing(
    sessions, worker_settings, new_trial, slot
):
    trial, before = new_trial(n_steps=1_000_000), workdirs()
    lease = claim(sessions, trial.id, "old")
    states = []

    def run() -> None:
        states.append(supervise(sessions, worker_settings, lease, slot, slot.spawn(), threading.Event()))

    thread = threading.Thread(target=run)
    thread.start()

    def steps() -> int:
        with sessions() as session:
            return session.get_one(Trial, trial.id).step

    wait_for(lambda: steps() > 0, "a step")
    expire(sessions, trial.id)
    with sessions.begin() as session:
        leases.sweep_expired(session)
    new = claim(sessions, trial.id, "new")
    thread.join(timeout=60)
    assert states == [None]
    assert workdirs() == before
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.state, row.lease_token, row.lease_owner, row.step) == (State.running, new.token, "new", 0)


def test_work_directories_of_killed_workers_are_swept_and_others_stay(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f"{workdir.prefix(dead.pid)}abc").mkdir()
    living, foreign = tmp_path / f"{workdir.prefix(os.getppid())}abc", tmp_path / "nestor-run-mine"
    living.mkdir()
    foreign.mkdir()
    workdir.remove_orphans()
    assert set(tmp_path.iterdir()) == {living, foreign}


def test_a_worker_has_one_slot_for_each_device_unless_told_otherwise(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 3")
    assert devices() == ("0", "3")
    assert Options().slots == (("0",), ("3",))
    assert Options(concurrency=3).slots == (("0",), ("3",), ("0",))
    assert Options(devices_per_trial=2).slots == (("0", "3"),)
    with pytest.raises(InvalidInput, match="NESTOR_DEVICES_PER_TRIAL is 3, but there are 2 devices here"):
        _ = Options(devices_per_trial=3).slots
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Options().slots == (("cpu",),)
    assert Options(devices_per_trial=2).slots == (("cpu", "cpu"),)


def test_a_trial_may_take_an_equal_share_of_the_memory_unless_told_otherwise(monkeypatch):
    """Without a limit, one trial took the memory of all, and of the database beside it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    whole = Options().trial_memory
    assert whole is not None
    assert 0.8 * memory() < whole < memory()
    shared = Options(concurrency=2, worker_count=2).trial_memory
    assert shared == max(LEAST_MEMORY, whole // 4)
    assert Options(memory_bytes=2**31).trial_memory == 2**31
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert Options().trial_memory is None  # a driver reserves far more addresses than memory


@pytest.mark.parametrize("module", ["nestor_worker", "nestor_server"])
def test_an_object_store_that_cannot_be_used_is_refused_at_the_start(module: str):
    environment = os.environ | {"NESTOR_BLOB_URL": "nonsense"}
    ran = subprocess.run([sys.executable, "-m", module], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("NESTOR_BLOB_URL cannot be used: ")
    assert "Write it like file:///srv/nestor or s3://bucket/prefix" in ran.stderr


@pytest.mark.parametrize("package", ["torch", "nestor_engine", "sklearn"])
def test_the_supervising_process_never_imports(package: str):
    program = f"import sys, nestor_worker.app, nestor_worker.cli; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
