"""Runs `nestor` as a script does, in a terminal, and in this process."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from typing import Any

import pytest

from nestor.cli import main

STUDY = "finished [b]"
# No worker has so many devices.
DOCUMENT = {"problem": {"preset": {}}, "n_steps": 5, "devices_per_trial": 1000, "user_attrs": {"k": [1]}}


class Shell:
    def __init__(self, **environment: str) -> None:
        cleared = {name: value for name, value in os.environ.items() if not name.startswith("NESTOR_")}
        self.environment = {**cleared, **environment, "COLUMNS": "200"}

    def popen(self, *words: object, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "nestor.cli", *map(str, words)], env=self.environment,
            stdin=subprocess.PIPE, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options,
        )  # fmt: skip

    def __call__(self, *words: object, code: int = 0, given: str = "") -> str:
        """Run a command and check its exit code; return stdout on success and stderr otherwise."""
        with self.popen(*words) as process:
            out, error = process.communicate(given, timeout=300)
        assert process.returncode == code, error
        return error if code else out


def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run a command in this process, which is quicker. Returns exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["nestor", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    out, error = capsys.readouterr()
    return ended.value.code, out, error


def completed(shell: Shell, *words: str) -> list[str]:
    """What a shell offers for the last word."""
    typed = {"_NESTOR_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; sys.argv[0] = 'nestor'; from nestor.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code], env=shell.environment | typed, capture_output=True, text=True, timeout=60
    )
    assert run.stderr == ""
    return run.stdout.split()


def in_terminal(shell: Shell, *words: object, width: int = 80) -> tuple[int, str]:
    """The exit status of a command, and what it writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, width, 0, 0))
    environment = {name: value for name, value in shell.environment.items() if name != "COLUMNS"} | {"NO_COLOR": "1"}
    narrow = Shell(**environment)
    narrow.environment.pop("COLUMNS")
    with narrow.popen(*words, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        while part := _read(ours):
            written += part
    os.close(ours)
    return process.returncode, re.sub(r"\x1b\[[\d;]*m", "", written.decode()).replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
