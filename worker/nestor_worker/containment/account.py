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
PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_CAP_AMBIENT = 8, 24, 47
PR_CAP_AMBIENT_RAISE = 2
CAPSET = {"x86_64": 126, "aarch64": 91}
CAPABILITIES_VERSION = 0x20080522  # of two words each; <linux/capability.h>
CAPABILITIES = 64
READ_ALL_FILES, LISTEN_ON_LOW_PORTS = 1 << 2, 1 << 10  # CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE
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
    _bound(0)
    if os.geteuid() == 0:
        with suppress(PermissionError):
            _become_nobody(directory)
    try:
        _hold(kept)
    except PermissionError:  # this process does not have it
        _hold(0)


def become(uid: int, gid: int, kept: int) -> None:
    """Change root's account for another one for good, and hand the capabilities `kept` on to programs.

    Raises:
        OSError
    """
    _bound(kept)
    _change(uid, gid)
    _hold(kept, inheritable=kept)
    for number in _numbers(kept):
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)


def _bound(kept: int) -> None:
    """Keep this process and its children from ever gaining capabilities other than `kept`."""
    with suppress(OSError):  # this kernel has fewer, or root has none to give up
        for number in _numbers(~kept):
            prctl(PR_CAPBSET_DROP, number)


def _hold(kept: int, *, inheritable: int = 0) -> None:
    header = struct.pack("Ii", CAPABILITIES_VERSION, 0)
    sets = struct.pack("6I", kept, kept, inheritable, 0, 0, 0)  # effective, permitted, inheritable
    syscall(CAPSET[os.uname().machine], header, sets)


def _numbers(capabilities: int) -> list[int]:
    return [number for number in range(CAPABILITIES) if capabilities >> number & 1]


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
    for path in (directory, *directory.iterdir()):
        with suppress(FileNotFoundError):  # of another process of this trial
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    _change(NOBODY, NOBODY)
    prctl(PR_SET_DUMPABLE, 1)  # or its own files in /proc would belong to root


def _change(uid: int, gid: int) -> None:
    os.setgroups([])
    prctl(PR_SET_KEEPCAPS, 1)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
