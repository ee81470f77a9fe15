"""Leaves root's account: the runner of a worker that runs as root becomes a user who owns its work directory alone."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from nestor_worker.containment.kernel import prctl, syscall
from nestor_worker.containment.paths import of_python
from nestor_worker.containment.process import PR_SET_DUMPABLE

NOBODY = 65_534  # the user and the group, on all distributions
PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 8, 24
CAPSET = {"x86_64": 126, "aarch64": 91}
CAPABILITIES_VERSION = 0x20080522  # of two words each; <linux/capability.h>
CAPABILITIES = 64
READ_ALL_FILES = 1 << 2  # CAP_DAC_READ_SEARCH
TO_LEAVE = 1 << 0 | 1 << 6 | 1 << 7  # CAP_CHOWN, CAP_SETGID and CAP_SETUID, which a container may lack
EVERYBODY_ENTERS, EVERYBODY_READS = 0o001, 0o004


def leave(directory: Path, readable: Iterable[Path]) -> None:
    """Give up all capabilities and, if this is root, become nobody, who owns `directory` from now on.

    One capability is kept where nobody could not read Python or what the trial reads, such as below root's home: to
    read files whatever their mode, of those that `landlock` allows. In a container that keeps root from changing the
    account, the process stays root without capabilities.

    Raises:
        OSError
    """
    kept = READ_ALL_FILES if obstacles(directory, readable) else 0
    with suppress(OSError):  # this kernel has fewer, or root has none to give up
        for number in range(CAPABILITIES):
            prctl(PR_CAPBSET_DROP, number)
    if os.geteuid() == 0:
        with suppress(PermissionError):
            _become_nobody(directory)
    header = struct.pack("Ii", CAPABILITIES_VERSION, 0)
    capset = CAPSET[os.uname().machine]
    try:
        syscall(capset, header, struct.pack("6I", kept, kept, 0, 0, 0, 0))  # effective, permitted, inheritable
    except PermissionError:  # this process does not have it
        syscall(capset, header, struct.pack("6I", *[0] * 6))


def can_leave() -> bool:
    """Whether trials of this process run under another account than root's."""
    if os.geteuid() != 0:
        return True
    lines = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    return held & TO_LEAVE == TO_LEAVE


def obstacles(directory: Path, readable: Iterable[Path] = ()) -> list[Path]:
    """What nobody cannot read although a trial has to, and directories above them that nobody cannot enter."""
    needed = [path for path in (*of_python(), *readable) if path.exists()]
    closed = [path for path in needed if not path.stat().st_mode & EVERYBODY_READS]
    above = {parent for path in (*needed, directory) for parent in path.resolve().parents}
    return [*closed, *(path for path in sorted(above) if not path.stat().st_mode & EVERYBODY_ENTERS)]


def _become_nobody(directory: Path) -> None:
    os.setgroups([])
    for path in (directory, *directory.iterdir()):
        with suppress(FileNotFoundError):  # of another process of this trial
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    prctl(PR_SET_KEEPCAPS, 1)
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    prctl(PR_SET_DUMPABLE, 1)  # or its own files in /proc would belong to root
