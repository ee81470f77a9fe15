"""Snapshots of trials in this process: a budget of memory that they share, files beyond it, and when these end."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nestor
from nestor import lifecycle
from nestor.errors import HyperparametersNotFound, SnapshotMemoryInvalid
from nestor.hparams import L2
from nestor.local import scratch
from nestor.local.packed import ALIGNMENT, Packed
from nestor.local.snapshot_store import DEFAULT_BYTES, VARIABLE, SnapshotStore, bytes_in_memory, memory_budget
from tests.client.problems import squared_error

ROOT = Path(__file__).parents[2]
NUMBERS = 1_000
Snapshot = dict[str, Tensor]


def snapshot(step: int) -> Snapshot:
    return {"a": torch.full((NUMBERS - 1,), float(step)), "b": torch.tensor(float(step))}


BYTES = Packed.of(snapshot(0)).nbytes


def value(found: Snapshot | None) -> float:
    assert found is not None
    assert sorted(found) == ["a", "b"]
    return float(found["b"])


def filled(steps: int) -> SnapshotStore:
    store = SnapshotStore()
    for step in range(steps):
        store[step] = snapshot(step)
    return store


def files(folder: Path | None = None) -> list[str]:
    return sorted(path.name for path in (folder or scratch.directory()).glob("*.safetensors"))


@pytest.fixture(autouse=True)
def nothing_else_in_memory(monkeypatch: pytest.MonkeyPatch):
    gc.collect()
    monkeypatch.setenv(VARIABLE, str(bytes_in_memory() + 3 * BYTES))
    before = files()
    yield
    gc.collect()
    assert files() == before  # each test's stores have ended


@contextmanager
def full_disk() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- one store --------------------------------------------------------------------------------------


def test_the_oldest_go_to_disk_and_all_can_be_read():
    before, store = bytes_in_memory(), filled(10)
    assert bytes_in_memory() - before == store.nbytes == 3 * BYTES
    assert len(files()) == 10 - 3 - 1  # the newest is the trial's own
    assert sorted(store) == list(range(10))
    assert [value(store.get(step)) for step in range(10)] == list(range(10))
    assert store.get(10) is None
    assert store.news() == []


@pytest.mark.parametrize("step", [0, 8, 9], ids=["on disk", "in memory", "the newest"])
def test_a_dropped_snapshot_takes_neither_memory_nor_disk(step: int):
    store = filled(10)
    read = store.get(step)
    for _ in range(2):
        store.discard(step)
    assert value(read) == step  # what was read before stays valid
    assert step not in store
    assert store.get(step) is None
    assert store.nbytes == (2 if step == 8 else 3) * BYTES
    store[10] = snapshot(10)
    assert store.nbytes == 3 * BYTES
    store.clear()
    assert (list(store), store.nbytes) == ([], 0)


def test_the_newest_alone_never_costs_a_write():
    """A best step that is superseded at once would otherwise write every step to disk."""
    store, before = SnapshotStore(), files()
    for step in range(100):
        store.discard(step - 1)
        store[step] = snapshot(step)
    assert (files(), store.nbytes) == (before, 0)


def test_trials_share_one_budget():
    before, stores = bytes_in_memory(), [filled(4) for _ in range(5)]
    assert bytes_in_memory() - before <= 3 * BYTES
    assert [[value(store.get(step)) for step in range(4)] for store in stores] == [[0, 1, 2, 3]] * 5


def test_with_a_budget_of_zero_only_the_newest_is_in_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "0")
    store = filled(5)
    assert store.nbytes == 0
    assert len(files()) == 4
    assert [value(store.get(step)) for step in range(5)] == list(range(5))


VIEWS: dict[str, Callable[[], Tensor]] = {
    "expanded": lambda: torch.tensor(2.0).expand(3, 4),
    "a slice": lambda: torch.arange(100.0)[3:7],
    "every other entry": lambda: torch.arange(100.0)[::2],
    "transposed": lambda: torch.arange(12.0).reshape(3, 4).T,
    "a scalar of a vector": lambda: torch.arange(100.0)[5],
    "empty": lambda: torch.zeros(0, 3),
    "bfloat16": lambda: torch.arange(4).bfloat16(),
    "that of autograd": lambda: torch.ones(3, requires_grad=True) * 2,
}


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("budget", [0, 10**9], ids=["on disk", "in memory"])
def test_views_and_shared_tensors_keep_no_larger_tensor_alive(kind: str, budget: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, str(budget))
    store, given = SnapshotStore(), VIEWS[kind]()
    store[0] = {"one": given, "same": given}
    store[1] = {}
    read = store.get(0)
    assert read is not None
    padded = -(-given.nbytes // ALIGNMENT) * ALIGNMENT
    assert store.nbytes == (2 * padded if budget else 0)
    for found in read.values():
        assert (found.dtype, found.shape, found.requires_grad) == (given.dtype, given.shape, False)
        assert torch.equal(found, given.detach())
        assert not budget or found.untyped_storage().nbytes() == given.nbytes


SETTINGS = [("", DEFAULT_BYTES), ("  ", DEFAULT_BYTES), ("0", 0), (" 1000 ", 1000), *[
    (wrong, None) for wrong in ("-1", "1.5", "1e9", "256MiB", "many", "٣x", "²")
]]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), SETTINGS)
def test_the_budget_is_a_number_of_bytes(given: str, expected: int | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, given)
    if expected is None:
        with pytest.raises(SnapshotMemoryInvalid, match=r"is not a number of bytes\. Write it like"):
            memory_budget()
    else:
        assert memory_budget() == expected
    monkeypatch.delenv(VARIABLE)
    assert memory_budget() == DEFAULT_BYTES


# --- a full disk, and files that are gone -----------------------------------------------------------


def test_on_a_full_disk_the_first_and_the_best_stay_and_a_warning_comes_once():
    store, news = SnapshotStore(), list[str]()
    store.essential = frozenset({0, 2})
    with full_disk():
        for step in range(10):
            store[step] = snapshot(step)
            news += store.news()
    assert sorted(store) == [0, 2, 8, 9]  # besides, those for which the budget suffices
    assert store.nbytes == 3 * BYTES
    assert len(news) == 1
    assert "Training continues without them. Free some space in" in news[0]
    assert f"or raise {VARIABLE}, now" in news[0]
    store[10] = snapshot(10)  # there is space again
    assert sorted(store) == [0, 2, 8, 9, 10]
    assert [value(store.get(step)) for step in store] == [0, 2, 8, 9, 10] or len(files()) == 1
    with full_disk():
        store[11] = snapshot(11)
    assert len(store.news()) == 1


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"damaged")], ids=["gone", "damaged"])
def test_a_file_that_something_else_removed_is_a_missing_snapshot(damage: Callable[[Path], Any]):
    store = filled(5)
    (file,) = scratch.directory().glob("*-0.safetensors")
    damage(file)
    assert store.get(0) is None
    assert 0 not in store


# --- trials -----------------------------------------------------------------------------------------


def trained(steps: int, **options: Any) -> nestor.Trial:
    """A trial with 20,100 decays, so that every second of 150 steps is kept."""
    torch.manual_seed(0)
    model, x, y = torch.nn.Linear(200, 100), torch.randn(20, 200), torch.randn(20, 100)
    problem = nestor.Problem(
        model, L2(model, per="weight", init=-2.0), squared_error, squared_error, train=(x, y), val=(x + 0.1, y)
    )
    quick = {"inner": nestor.Adam(0.05), "inner_steps": 1, "show_progress_bar": False}
    return nestor.create_study("snapshots", load_if_exists=True).optimize(problem, steps, **quick, **options)


@pytest.fixture
def study():
    yield
    nestor.delete_study("snapshots")


@pytest.mark.usefixtures("study")
def test_a_trial_reads_the_same_snapshots_from_memory_and_from_disk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, str(10**9))
    remembered = trained(150)
    monkeypatch.setenv(VARIABLE, "0")
    written = trained(150)
    kept = {step for step in range(150) if step % 2 == 0 and lifecycle.is_retained(step, 150, 2)}
    assert set(written.hparams_steps) == kept | {150, written.best_step}
    assert written.hparams_steps == remembered.hparams_steps
    for step in written.hparams_steps:
        ours, theirs = written.hparams_at(step).numpy(), remembered.hparams_at(step).numpy()
        assert [(ours[name] == theirs[name]).all() for name in ours] == [True, True]
    best, expected = (trial.best_hparams.numpy()["l2.weight"] for trial in (written, remembered))
    assert (best == expected).all()
    start = nestor.WarmStart(trial=written.id, step=40, weights=False)
    again = trained(1, warm_start=start)
    assert (again.hparams_at(0).numpy()["l2.weight"] == written.hparams_at(40).numpy()["l2.weight"]).all()


@pytest.mark.usefixtures("study")
def test_a_copy_on_a_full_disk_keeps_what_is_essential(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "0")
    trial = trained(20)
    with full_disk():
        (copied,) = nestor.copy_study(from_study_name="snapshots", to_study_name="snapshots again").trials
    assert set(copied.hparams_steps) >= {0, trial.best_step, 20}
    nestor.delete_study("snapshots again")


@pytest.mark.usefixtures("study")
def test_a_full_disk_does_not_stop_a_trial(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "0")
    with full_disk():
        trial = trained(20)
    assert trial.state.value == "complete"
    assert {0, trial.best_step, 20} == set(trial.hparams_steps)
    with pytest.raises(HyperparametersNotFound):
        trial.hparams_at(next(step for step in range(2, 18, 2) if step != trial.best_step))
    warnings = [event.data["text"] for event in trial.events() if event.data.get("level") == "warning"]
    assert ["Free some space" in text for text in warnings].count(True) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("budget", [3, 100])
def test_long_trials_stay_within_the_memory_of_training_and_the_budget(budget: int):
    """Snapshots that were tensors split the freed memory of the heap, and took twice their size."""
    size, steps, early = 300_000, 60, 20
    options = f"--kind decays --size {size} --steps {steps}".split()
    environment = os.environ | {VARIABLE: str(budget * 4 * size), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.memory", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["snapshots"], row["budget"]) == (steps + 1, budget)
    # The budget also holds the snapshots of a first small trial.
    assert row["on_disk"] == pytest.approx(steps - budget if budget < steps else 0, rel=0.03)
    assert row["peak"] < row["start"] + min(budget, steps - early) + 5


# --- processes --------------------------------------------------------------------------------------

WRITE = """
import os, signal, sys
from nestor.local import scratch
(scratch.directory() / "a.safetensors").write_text("a")
files = lambda: sorted(path.name for path in scratch.directory().glob("*.safetensors"))
"""


def run(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {VARIABLE: "0", "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WRITE + textwrap.dedent(code)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_files_end_with_their_process_also_after_a_kill(tmp_path: Path):
    killed = run("os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert (killed.returncode, killed.stderr) == (-signal.SIGKILL, "")
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    foreign = tmp_path / "nestor-scratch-without-a-lock"
    foreign.mkdir()
    ended = run("sys.exit(3)", tmp_path)  # which also removes what the killed process left
    assert (ended.returncode, ended.stderr) == (3, "")
    assert list(tmp_path.glob("nestor-scratch-*")) == [foreign]


def test_processes_do_not_remove_each_others_directories(tmp_path: Path):
    code = f"""
        import subprocess
        subprocess.run([sys.executable, "-c", {WRITE!r}], check=True, text=True)
        assert files() == ["a.safetensors"]
    """
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_directory_that_something_else_removed_is_made_again(tmp_path: Path):
    code = """
        import shutil
        shutil.rmtree(scratch.directory())
        assert files() == []
        assert scratch.directory().is_dir()
    """
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_leaves_its_parents_files_alone(tmp_path: Path):
    code = """
        import torch
        from nestor.local.snapshot_store import SnapshotStore
        store = SnapshotStore()
        for step in range(5):
            store[step] = {"a": torch.tensor(float(step))}
        assert len(files()) == 1 + 4
        child = os.fork()
        if child == 0:
            store[5] = store.get(0)
            store.discard(1)
            assert len(files()) == 1  # its own directory
            store.clear()
            del store
            sys.exit(0)  # runs the handlers that the parent registered
        assert os.waitpid(child, 0)[1] == 0
        assert len(files()) == 1 + 4
        assert [float(store.get(step)["a"]) for step in range(5)] == [0, 1, 2, 3, 4]
    """
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
