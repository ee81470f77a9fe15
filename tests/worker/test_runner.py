"""The runner's process: what it knows, what it sends, and how it ends."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch

from nestor.lifecycle import RECENT, is_retained
from nestor.options import Config
from nestor.schemas import TrialCreate
from nestor_worker.app import _log_walls
from nestor_worker.channel import (
    MAX_LINE,
    Checkpoint,
    Distributed,
    Ended,
    Failed,
    LogLine,
    Message,
    Snapshot,
    Started,
    Stepped,
    Stop,
    encode,
)
from nestor_worker.containment import walls
from nestor_worker.options import Options
from nestor_worker.runner.recorder import MOST_WITH_DISTRIBUTIONS
from nestor_worker.runner.snapshot_policy import SnapshotPolicy
from nestor_worker.supervisor.runners import process as runner_process
from nestor_worker.supervisor.runners.process import Runner
from nestor_worker.workdir import WorkSpec
from tests.worker.conftest import SPEC


def write_spec(directory: Path, n_steps: int, config_changes: dict | None = None, **fields) -> None:
    config = TrialCreate.model_validate(SPEC).model_dump(mode="json", include=set(Config.model_fields))
    config |= {"n_steps": n_steps, **(config_changes or {})}
    preset = {"model": {"kind": "mlp", "hidden": [8]}, "train_size": 100, "val_size": 50}
    spec = WorkSpec(config, preset, best_step=None, best_value=None, warm=None, threads=1, checkpoint_seconds=60)
    (directory / "spec.json").write_text(json.dumps(dataclasses.asdict(spec) | fields))


@pytest.fixture
def start(fork_server):
    runners = []

    def run(n_steps: int, *, threads: int = 1, forked: bool = True, **fields) -> Runner:
        runner = Runner(threads=threads, devices=("cpu",), fork_server=fork_server if forked else None)
        runners.append(runner)
        write_spec(runner.directory, n_steps, threads=threads, **fields)
        runner.begin()
        return runner

    yield run
    for runner in runners:
        runner.close()


def hear(runner: Runner, until: type[Message] | None = None) -> list[Message]:
    heard = []
    while (message := runner.inbox.get(timeout=300)) is not None:
        heard.append(message)
        if until is not None and isinstance(message, until):
            break
    return heard


def of(kind: type, messages: list) -> list:
    return [message for message in messages if isinstance(message, kind)]


@pytest.mark.parametrize("forked", [True, False])
def test_a_runner_reports_everything_in_order_and_exits(start, forked: bool):
    runner = start(5, forked=forked)
    heard = hear(runner)
    # Readers of a snapshot need the transforms, and the log line comes behind the snapshot of its step.
    started = heard[0]
    assert isinstance(started, Started)
    assert isinstance(heard[1], Snapshot)
    assert heard[2] == LogLine(0, "runs on cpu, from the beginning")
    assert heard[-1] == Ended(5, stopped=False, why="all 5 steps are taken")
    assert [message.record["number"] for message in of(Stepped, heard)] == [1, 2, 3, 4, 5]
    assert [message.step for message in of(Snapshot, heard)] == [0, 1, 2, 3, 4, 5]
    assert [message.step for message in of(Checkpoint, heard)] == [5]
    assert [message.record["number"] for message in of(Distributed, heard)] == [0, 1, 2, 3, 4, 5]
    several = {info["name"] for info in started.hyperparameters if math.prod(info["shape"]) > 1}
    assert all(message.record["tensors"].keys() == several for message in of(Distributed, heard))
    hparams = safetensors.torch.load_file(runner.directory / of(Snapshot, heard)[-1].file)
    assert {h["name"] for h in started.hyperparameters} == set(hparams)


@pytest.mark.parametrize("is_contained", [True, False])
def test_its_walls_can_be_taken_down_except_for_limits(start, is_contained: bool):
    """`NESTOR_CONTAIN=false` shows whether a wall breaks something."""
    runner = start(1_000_000, is_contained=is_contained, file_bytes=2**24)
    hear(runner, until=Stepped)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{runner.pid}/status").read_text().splitlines())
    assert status["Seccomp"] == ("2" if is_contained else "0")
    limits = Path(f"/proc/{runner.pid}/limits").read_text()
    assert next(line.split()[3:5] for line in limits.splitlines() if "file size" in line) == ["16777216", "16777216"]


def test_a_worker_warns_that_walls_are_down(caplog):
    with caplog.at_level("INFO"):
        _log_walls(Options(contain=False))
        _log_walls(Options())
    down, *standing = caplog.records
    assert (down.levelname, "NESTOR_CONTAIN=false" in down.message) == ("WARNING", True)
    assert [record.message for record in standing] == [str(wall) for wall in walls()]


def test_the_distributions_of_so_many_hyperparameters_fit_into_a_message():
    one = {"quantiles": [-1.2345678901234567e-100] * 7, "first": -2000, "width": 1e-100, "counts": [10**9] * 64}
    tensors = {f"{'x' * 190}{i}": one for i in range(MOST_WITH_DISTRIBUTIONS)}
    assert len(encode(Distributed({"number": 1, "tensors": tensors}))) < MAX_LINE


@pytest.mark.parametrize("forked", [True, False])
def test_its_environment_holds_no_credentials(start, monkeypatch, forked: bool):
    secrets = ("NESTOR_DATABASE_URL", "NESTOR_REDIS_URL", "NESTOR_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD")
    for name in secrets:
        monkeypatch.setenv(name, "a-secret-value")
    runner = start(1, forked=forked)
    hear(runner, until=Started)
    seen = Path(f"/proc/{runner.pid}/environ").read_bytes().decode()
    assert "a-secret-value" not in seen
    names = {entry.split("=", 1)[0] for entry in seen.split("\0") if entry}
    ours = set(runner_process.environment(Path(), threads=1, device="cpu"))
    assert names <= {*runner_process.INHERITED, *ours}
    assert os.getpgid(runner.pid) == runner.pid


FAULTS = """
import resource, torch

faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before, x = faults(), torch.ones(10_000_000)
for _ in range(40):
    x = 0.5 * x + 1
print(faults() - before)
"""


def test_it_uses_freed_memory_again(tmp_path: Path):
    """Regression: an update of ten million numbers cost 20,000 page faults, several times its arithmetic."""
    page_faults = lambda environment: int(subprocess.check_output([sys.executable, "-c", FAULTS], env=environment))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    assert 4 * page_faults(runner_process.environment(tmp_path, threads=1, device="cpu")) < page_faults(inherited)


def test_on_a_stop_message_it_writes_a_checkpoint_and_exits(start):
    runner = start(100_000)
    heard = hear(runner, until=Stepped)
    runner.send(Stop())
    heard += hear(runner)
    assert heard[-1] == Ended(of(Stepped, heard)[-1].record["number"], stopped=True)
    reached = of(Stepped, heard)[-1].record["number"]
    assert of(Checkpoint, heard)[-1].step == of(Snapshot, heard)[-1].step == reached


def test_the_last_step_is_evaluated_if_the_user_ends_the_training_and_as_planned_if_it_is_preempted(start):
    for stop in (Stop(), Stop(evaluate=True)):
        runner = start(100_000, config_changes={"evaluate_every": 90_000})
        heard = hear(runner, until=Stepped)
        runner.send(stop)
        steps = of(Stepped, heard + hear(runner))
        evaluated = [message.record["number"] for message in steps if message.record["value"] is not None]
        assert evaluated == ([len(steps)] if stop.evaluate else [])


@pytest.mark.parametrize("forked", [True, False])
def test_it_dies_with_its_supervisor(start, forked: bool):
    runner = start(100_000, forked=forked)
    hear(runner, until=Stepped)
    runner._process.stdin.close()  # the kernel does this for a killed supervisor
    runner._process.wait(timeout=60)


def test_a_killed_runner_sends_no_last_message_and_has_a_reason(start):
    runner = start(100_000)
    hear(runner, until=Stepped)
    os.kill(runner.pid, signal.SIGKILL)
    assert not of(Ended, hear(runner))
    assert "SIGKILL" in runner.exit_reason()
    assert "out of memory" in runner.exit_reason()


def test_closing_ends_it_and_its_descendants(start):
    runner = start(100_000)
    hear(runner, until=Stepped)
    runner.close()
    time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.killpg(runner.pid, 0)


def test_a_problem_that_cannot_be_trained_fails_with_an_error_message(start):
    failed = hear(start(5, preset=None))[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "problem-failed"
    assert "graphs.json" in failed.detail


def test_small_hyperparameters_are_kept_at_every_step_and_large_ones_about_a_hundred_times():
    def kept(nbytes: int, n_steps: int) -> list[int]:
        policy = SnapshotPolicy(n_steps=n_steps, nbytes=nbytes, best_step=None, best_value=None)
        return [step for step in range(1, n_steps + 1) if policy.due(step)]

    assert kept(64 * 1024, 500) == list(range(1, 501))
    assert len(kept(10**6, 5_000)) == 100
    assert kept(10**6, 50) == list(range(1, 51))
    assert kept(10**6, 1_001)[-1] == 1_001
    assert len(kept(10**6, 1_001)) <= 101


def test_the_best_step_is_kept_and_replaces_the_one_before():
    policy = SnapshotPolicy(n_steps=1_000, nbytes=10**6, best_step=None, best_value=None)
    for step, value in ((1, 0.9), (2, 0.5), (3, 0.7)):
        policy.is_best(step, value)
    assert policy.superseded() == (2, [])
    assert policy.superseded() == (2, [])  # as long as it was not written
    policy.recorded(2)
    assert policy.superseded() == (None, [])
    policy.is_best(17, 0.4)
    assert policy.superseded() == (17, [2])
    policy.recorded(17)
    policy.is_best(20, 0.3)  # on the grid of every tenth, and written again to say what it replaces
    assert policy.superseded() == (20, [17])


@pytest.mark.parametrize("every", [1, 7])
def test_with_every_doubling_of_their_age_half_as_many_snapshots_are_kept(every: int):
    policy = SnapshotPolicy(n_steps=every * 10_000, nbytes=1, best_step=None, best_value=None)
    policy._every = every
    policy.is_best(1001 * every, 0.1)
    kept = {0}
    for step in range(every, every * 5_000 + 1, every):
        kept = kept - set(policy.evicted(step)) | {step}
    newest = every * 5_000
    assert kept == {0, 1001 * every} | {step for step in range(every, newest + 1) if is_retained(step, newest, every)}
    ages = [(newest - step) // every for step in kept]
    assert sum(age < RECENT for age in ages) == RECENT
    for oldest in (2 * RECENT, 4 * RECENT, 8 * RECENT):
        assert sum(oldest // 2 <= age < oldest for age in ages) in (RECENT // 2, RECENT // 2 + 1)
