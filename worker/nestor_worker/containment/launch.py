"""`python -m nestor_worker.containment.launch UID GID PARENT PORT PROGRAM …`: run a part of `nestor up` without root.

Root starts it. The program has the account UID, ends with the process PARENT, and may listen on PORT. It keeps one more
capability where this account cannot read Python, such as below root's home: to read files whatever their mode.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nestor_worker.containment import account, process
from nestor_worker.containment.kernel import prctl

FIRST_FREE_PORT = 1024
SHARED_BY_GROUP = 0o007  # the umask: server and workers write to one object store


def launch(uid: int, gid: int, parent: int, port: int, program: list[str]) -> None:
    """Become the user and the program."""
    os.umask(SHARED_BY_GROUP)
    if sys.platform == "linux":
        _leave_root(uid, gid, port)
        process.end_with_parent()  # the kernel forgets it when the account changes
        if os.getppid() != parent:  # it has ended before
            sys.exit(1)
    else:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    os.execv(program[0], program)  # nosec B606 # without a shell, as it should be


def _leave_root(uid: int, gid: int, port: int) -> None:
    reads_all, binds = bool(account.obstacles(Path.cwd())), 0 < port < FIRST_FREE_PORT
    account.become(uid, gid, reads_all * account.READ_ALL_FILES | binds * account.LISTEN_ON_LOW_PORTS)
    prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    if not reads_all:
        os.environ["HOME"] = os.environ["TMPDIR"]  # libraries fail that may not look into root's home


if __name__ == "__main__":
    launch(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
