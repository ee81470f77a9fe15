"""What bounds a runner process by itself: its end, its name, its privileges, its memory and its files."""

from __future__ import annotations

import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

from nestor_worker.containment.kernel import prctl

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_NO_NEW_PRIVS = 1, 4, 15, 38  # <linux/prctl.h>
OOM_SCORE = 500  # of -1000 … 1000: when memory runs out, the kernel kills this process and not its supervisor
OPEN_FILES = 4_096


def prepare(*, name: str) -> None:
    """End with the supervisor, gain no privileges, write no core file, and be killed first when memory runs out.

    Except for the core file, this works on Linux only. `name` is passed to `rename`.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end_with_parent()
    if sys.platform == "linux":
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    rename(name)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, on Linux, even if a long operation blocks all threads.

    The parent of a forked runner is the fork server, which ends with the worker.
    """
    if sys.platform == "linux":
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def rename(name: str) -> None:
    """Change the name that `ps` and `top` show on Linux, to at most 15 bytes."""
    if sys.platform == "linux":
        prctl(PR_SET_NAME, name.encode())


def hide_memory() -> None:
    """Keep other processes of the same user from reading this one's memory and environment, on Linux."""
    if sys.platform == "linux":
        prctl(PR_SET_DUMPABLE, 0)


def limit(memory_bytes: int | None, file_bytes: int | None) -> None:
    """Make allocations and writes above these bounds fail: the trial ends with an error, and the machine survives."""
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
