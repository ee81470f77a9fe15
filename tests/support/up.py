"""A real `nestor up` in its own process, used through its output, signals and exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from nestor_server.embedded.home import Home
from testbed.leaks import expect_no_secrets_in_home
from testbed.worker import command

START_SECONDS = 240.0  # on a loaded machine, PostgreSQL, Valkey, servers and workers take long to start
ADDRESS = re.compile(r"Nestor is up: (http://[^/\s]+)(.*\n)+Ctrl-C")


class Up:
    """One `nestor up` that has come up."""

    def __init__(self, process: subprocess.Popen[str], output: Path, home: Path) -> None:
        self.home = home
        self._process = process
        self._output = output
        wait_for(lambda: ADDRESS.search(self.output) or process.poll() is not None, START_SECONDS, lambda: self.output)
        found = ADDRESS.search(self.output)
        assert found, f"it did not come up:\n{self.output}"
        self.url = found[1]
        self.token = Home(home).token_file.read_text()

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def pid(self) -> int:
        return self._process.pid

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def child(self, word: str) -> psutil.Process:
        """The direct child with `word` on its command line."""
        return next(child for child in psutil.Process(self.pid).children() if word.encode() in command(child.pid))

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.request(method, f"{self.url}{path}", headers=headers, trust_env=False, timeout=60.0, **options)

    def signal(self, number: signal.Signals) -> int:
        """Send it, and give the exit code."""
        self._process.send_signal(number)
        return self._process.wait(40)

    def wait(self, seconds: float) -> int:
        return self._process.wait(seconds)


@contextmanager
def running_up(home: Path, *options: str, python: list[str] | None = None, **environment: str) -> Generator[Up]:
    """`nestor up` on `home` with any free port; stopped at the end unless the test has done so.

    Its workers do not load torch before there is a trial, because most tests have none.
    """
    output = home.with_suffix(".output")
    with output.open("w") as out:
        process = subprocess.Popen(
            [*(python or [sys.executable]), *COMMAND, "up", "--home", str(home), "--port", "0", *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment_for(home, **{"NESTOR_STANDBY": "false"} | environment),
            text=True,
        )
    try:
        yield Up(process, output, home)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        output.unlink()
    expect_no_secrets_in_home(home)


COMMAND = ("-c", "from nestor.cli import main; main()")  # what the script `nestor` does


def run(home: Path, *arguments: str, home_option: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a `nestor` command to its end."""
    options = ["--home", str(home)] if home_option else []
    return subprocess.run(
        [sys.executable, *COMMAND, *arguments, *options],
        env=environment_for(home, **environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def environment_for(home: Path, **more: str) -> dict[str, str]:
    """Without the server and credentials of the user who runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NESTOR_")}
    return inherited | {"NESTOR_CREDENTIALS": str(credentials(home)), "OMP_NUM_THREADS": "1"} | more


def credentials(home: Path) -> Path:
    return home.with_name(f"{home.name}-credentials.json")


def saved_token(home: Path, url: str) -> str:
    return json.loads(credentials(home).read_text())[url]


def wait_for(reached: Callable[[], object], seconds: float, shown: Callable[[], object] = str) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"not after {seconds} s: {shown()}"
        time.sleep(0.05)


def ended(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all processes end within `seconds`. A zombie counts as ended."""

    def gone(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    end = time.monotonic() + seconds
    while not all(gone(process) for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
