"""Child processes do not outlive their parent, and a pid alone does not identify a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestor_server.embedded.errors import ChildFailed
from nestor_server.embedded.process import Child, alive, end_orphan
from tests.support.up import wait_for


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def _child(tmp_path: Path, code: str) -> Child:
    argv = [sys.executable, "-c", code]
    return Child("part", argv, log=tmp_path / "part.log", env=dict(os.environ), cwd=tmp_path)


def test_a_child_that_ends_instead_of_starting_is_quoted_from_its_log(tmp_path: Path):
    (tmp_path / "part.log").write_text("of an earlier run\n")
    child = _child(tmp_path, "import sys; print('no such key'); sys.exit(3)")
    child.start()
    with pytest.raises(ChildFailed, match=r"part ended with exit code 3(.|\n)*no such key") as failure:
        child.wait_until(lambda: False, timeout=10)
    assert "earlier" not in str(failure.value)
    child.stop()


def test_a_child_that_ignores_its_signal_is_killed(tmp_path: Path):
    child = _child(
        tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    child.start()
    wait_for(lambda: (tmp_path / "part.log").read_text(), 10)
    pid = child.pid
    child.stop(timeout=0.2)
    assert not alive(pid)


def test_starting_from_another_thread_is_refused(tmp_path: Path):
    refused: list[BaseException] = []

    def start() -> None:
        try:
            _child(tmp_path, "").start()
        except RuntimeError as error:
            refused.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(refused) == 1


def test_the_watchdog_of_other_systems_signals_when_its_owner_is_gone(sleeper: subprocess.Popen[bytes]):
    imports = "import os; from nestor_server.embedded.process import start_watchdog"
    owner = f"{imports}; start_watchdog({sleeper.pid}, 15); os._exit(0)"
    subprocess.run([sys.executable, "-c", owner], check=True)
    assert sleeper.wait(10) == -signal.SIGTERM


def test_a_zombie_is_dead():
    process = subprocess.Popen(["true"])
    wait_for(lambda: not alive(process.pid), 5)
    process.wait()


def test_a_pid_that_was_given_to_another_program_is_left_alone(sleeper: subprocess.Popen[bytes], tmp_path: Path):
    end_orphan(sleeper.pid, tmp_path / "data", signal.SIGKILL)
    assert sleeper.poll() is None
