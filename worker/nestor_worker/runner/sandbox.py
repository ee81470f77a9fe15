"""What a runner takes from itself before it runs a stranger's program, and what the operator allows it."""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_NO_NEW_PRIVS = 1, 15, 38  # <linux/prctl.h>
FIRST_TO_GO = 500  # of -1000 … 1000: when memory runs out, the kernel ends this process, not its supervisor


def contain(*, name: str) -> None:
    """Die with the supervisor, gain no privilege, leave no core file, and be the first to go when memory is short."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # Should a long operation keep the thread that watches the supervisor from running, the kernel does it.
        _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO))
    rename(name)


def rename(name: str) -> None:
    """What `ps` and `top` show; at most 15 bytes."""
    if sys.platform == "linux":
        _prctl(PR_SET_NAME, name.encode())


def limit_memory(nbytes: int | None) -> None:
    """Have allocations fail beyond `nbytes` of data, so that the trial ends with a sentence and the machine goes on."""
    if nbytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (nbytes, nbytes))


def _prctl(*arguments: int | bytes) -> None:
    ctypes.CDLL(None).prctl(*arguments)
