"""Restricts a runner process before it runs an untrusted program."""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_NO_NEW_PRIVS = 1, 15, 38  # <linux/prctl.h>
OOM_SCORE = 500  # of -1000 … 1000: when memory runs out, the kernel kills this process and not its supervisor


def contain(*, name: str) -> None:
    """End with the supervisor, gain no privileges, write no core file, and be killed first when memory runs out.

    Except for the core file, this works on Linux only. `name` is passed to `rename`.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end_with_parent()
    if sys.platform == "linux":
        _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    rename(name)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, on Linux, even if a long operation blocks all threads.

    The parent of a forked runner is the fork server, which ends with the worker.
    """
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def rename(name: str) -> None:
    """Change the name that `ps` and `top` show on Linux, to at most 15 bytes."""
    if sys.platform == "linux":
        _prctl(PR_SET_NAME, name.encode())


def limit_memory(nbytes: int | None) -> None:
    """Make allocations above `nbytes` of data fail, so that the trial ends with an error and the machine survives."""
    if nbytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (nbytes, nbytes))


def _prctl(*arguments: int | bytes) -> None:
    ctypes.CDLL(None).prctl(*arguments)
