"""The fork server: runners from one process that do not see each other, and what happens when it ends."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

from nestor.schemas import EventType, State
from nestor_worker import forks
from nestor_worker.channel import Ended, Stepped
from nestor_worker.runner import preload
from nestor_worker.supervisor.attempt import Slot, supervise
from nestor_worker.supervisor.runners.fork_server import ForkedProcess, ForkServer
from nestor_worker.supervisor.runners.process import Runner, environment
from testbed.server import wait_for
from testbed.worker import children, command, name
from tests.worker.test_runner import hear, of, write_spec
from tests.worker.trials import claim, events


@pytest.fixture
def new_server() -> Iterator[Callable[[], ForkServer]]:
    """A fork server for one test, which inherits what the test has put into the environment."""
    servers = []

    measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}

    def start() -> ForkServer:
        servers.append(ForkServer(lambda home: environment(home, threads=1, device="cpu") | measured))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        if server._control is not None and server._process is not None:
            server._control.close()
            server._process.wait(timeout=60)  # it ends by itself, and coverage records what it has run
        server.close()


@pytest.fixture
def spawn(slot: Slot) -> Iterator[Callable[..., Runner]]:
    runners = []

    def spawn(**changes) -> Runner:
        runners.append(dataclasses.replace(slot, **changes).spawn())
        return runners[-1]

    yield spawn
    for runner in runners:
        runner.close()


def steps_of(runner: Runner, **fields) -> list[dict]:
    """The records of a short trial, without what depends on a clock."""
    write_spec(runner.directory, 3, {"inner_steps": 2}, **fields)
    runner.begin()
    heard = hear(runner)
    assert isinstance(heard[-1], Ended), heard[-1]
    return [step.record | {"seconds": 0, "traced": None} for step in of(Stepped, heard)]


def test_a_forked_runner_computes_what_one_that_loaded_torch_by_itself_does_also_in_several_threads(spawn):
    wide = {"model": {"kind": "mlp", "hidden": [512]}}  # enough for torch to divide products between its threads
    forked, executed = spawn(threads=2), spawn(threads=2, fork_server=None)
    numbers = steps_of(forked, preset=wide, threads=2)
    assert numbers == steps_of(executed, preset=wide, threads=2)


def test_a_fork_server_has_one_thread_so_that_no_other_holds_a_lock_during_a_fork(fork_server: ForkServer, spawn):
    assert spawn().pid  # it has loaded everything
    assert psutil.Process(fork_server.pid).num_threads() == 1


def test_runners_of_one_fork_server_share_no_session_directory_file_or_environment(fork_server: ForkServer, spawn):
    first, second = spawn(), spawn()
    for runner in (first, second):
        wait_for(lambda runner=runner: name(runner.pid) == "nestor-standby", "the runner to be ready")
        assert fork_server.pid is not None
        assert runner.pid in children(fork_server.pid)
        assert os.getsid(runner.pid) == os.getpgid(runner.pid) == runner.pid
        assert Path(f"/proc/{runner.pid}/cwd").resolve() == runner.directory.resolve()
    pipes = [{str(path.readlink()) for path in Path(f"/proc/{runner.pid}/fd").iterdir()} for runner in (first, second)]
    assert len(pipes[0]) == 3  # what it reads, what it sends, and its log
    assert pipes[0].isdisjoint(pipes[1])
    first.close()
    assert second.is_alive


def test_neither_a_fork_server_nor_its_runners_have_credentials(new_server, spawn, monkeypatch: pytest.MonkeyPatch):
    for variable in ("NESTOR_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"):
        monkeypatch.setenv(variable, "a-secret-value")
    server = new_server()
    for pid in (server.pid, spawn(fork_server=server).pid):
        seen = psutil.Process(pid).environ()
        assert seen["OMP_NUM_THREADS"] == "1"
        assert "a-secret-value" not in seen.values()


def test_a_runner_that_is_closed_before_it_exists_is_never_forked(new_server, spawn):
    server = new_server()
    withdrawn, kept = spawn(fork_server=server), spawn(fork_server=server)
    withdrawn.close()
    assert not withdrawn.directory.exists()
    assert kept.pid in children(server.pid)
    assert len(children(server.pid)) == 1


def test_when_the_fork_server_is_killed_its_trial_is_queued_again_and_the_next_runner_has_another_one(
    sessions, worker_settings, new_trial, new_server, sent, slot
):
    trial, server = new_trial(n_steps=1_000_000), new_server()
    slot = dataclasses.replace(slot, fork_server=server)
    lease, runner = claim(sessions, trial.id), slot.spawn()
    killed = server.pid

    def kill() -> None:
        wait_for(lambda: name(runner.pid) == "nestor-runner", "the trial to begin")
        os.kill(killed, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    assert supervise(sessions, worker_settings, lease, slot, runner, threading.Event()) is State.queued
    killing.join()
    assert command(runner.pid) == b""
    assert trial.id in sent
    with sessions() as session:
        assert "SIGKILL" in events(session, trial.id, EventType.state)[-1]["why"]

    following = slot.spawn()
    assert len(steps_of(following)) == 3
    assert server.pid != killed
    following.close()


def test_a_fork_server_and_its_runners_end_with_the_worker(new_server, spawn):
    server = new_server()
    runner = spawn(fork_server=server)
    forked = (server.pid, runner.pid)
    assert server._control is not None
    server._control.close()  # the kernel does this for a killed worker
    wait_for(lambda: not any(command(pid) for pid in forked), "both to end")


def test_a_torch_that_cannot_be_loaded_is_reported_by_each_runner(new_server, spawn, tmp_path: Path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so is damaged')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = new_server()
    for _ in range(2):
        runner = spawn(fork_server=server)
        write_spec(runner.directory, 1)
        runner.begin()
        assert hear(runner) == []
        assert "exit code 1, after writing: ImportError: libtorch.so is damaged" in runner.exit_reason()


def test_loading_leaves_the_random_numbers_of_a_new_process():
    before = torch.get_rng_state()
    preload.load(lambda: False)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_process_id_is_known_without_waiting_as_soon_as_there_is_one():
    ours, fork_server = forks.socket_pair()
    process = ForkedProcess(io.BytesIO(), None, ours)
    assert process.running_pid is None
    fork_server.send(b"17")
    assert process.running_pid == process.pid == 17
    fork_server.send(b"0")
    assert process.running_pid is None
    assert process.wait() == 0
    process.end()
    assert process.running_pid is None
    fork_server.close()


def test_the_memory_of_a_runner_is_read_without_waiting_from_its_beginning_to_after_its_end(spawn, new_server):
    runner = spawn(fork_server=new_server())
    assert runner.resident_bytes is None or runner.pid  # the fork server may still load what it needs
    wait_for(lambda: runner.resident_bytes, "the runner")
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            _ = runner.resident_bytes

    with ThreadPoolExecutor(2) as threads:
        reading = [threads.submit(read) for _ in range(2)]
        runner.close()
        stop.set()
        assert [future.result(60) for future in reading] == [None, None]
    assert runner.resident_bytes is None
