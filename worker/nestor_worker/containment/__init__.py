"""The wall around a runner: before it reads what a user submitted, it gives up everything that a trial does not need.

`enter` applies all of it in one call. Each module is one wall, and none relies on another: `process` ends with the
supervisor and bounds memory and files, `account` stops being root, `landlock` closes the file system, `seccomp` refuses
system calls. `walls` says which of them this machine has.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from nestor_worker.containment import account, landlock, process, seccomp
from nestor_worker.containment.paths import DEVICES_OF_GPUS, OF_NETWORK, WRITABLE, readable_by_all


@dataclass(frozen=True)
class Needs:
    """What a trial needs beyond its work directory.

    Attributes:
        readable: files and directories that it reads.
        devices: processes of the trial, which talk over the loopback device if they are several.
        on_gpu: whether it uses the driver of GPUs.
        memory_bytes: of data; allocations above it fail. None: no limit.
        file_bytes: that a file which it writes may have.
    """

    readable: tuple[Path, ...] = ()
    devices: int = 1
    on_gpu: bool = False
    memory_bytes: int | None = None
    file_bytes: int | None = None


def enter(directory: Path, needs: Needs) -> None:
    """Keep this process, for good, to its work directory and to `needs`. Call it while it has a single thread.

    Raises:
        OSError: the kernel has a wall, and refuses to build it.
    """
    process.limit(needs.memory_bytes, needs.file_bytes)
    if sys.platform != "linux":
        return
    account.leave(directory, needs.readable)
    process.end_with_parent()  # the kernel forgets it when the account changes
    several = needs.devices > 1
    readable = [*readable_by_all(), *needs.readable, *(OF_NETWORK if several else ())]
    writable = [directory, *WRITABLE, *(DEVICES_OF_GPUS if needs.on_gpu else ())]
    landlock.restrict(readable, writable, tcp=several)
    seccomp.restrict(sockets=several, local_sockets=needs.on_gpu)


@dataclass(frozen=True)
class Wall:
    """One wall on this machine.

    Attributes:
        stands: whether this machine has it.
        does: what it keeps a trial from, as a clause.
        needs: what a machine has to have.
    """

    name: str
    stands: bool
    does: str
    needs: str

    def __str__(self) -> str:
        return f"{self.name}: {self.does}" if self.stands else f"no {self.name} here, so it is not so that {self.does}"


def walls() -> list[Wall]:
    """The walls around trials, and whether they stand on this machine."""
    is_linux, abi = sys.platform == "linux", landlock.abi() if sys.platform == "linux" else 0
    return [
        Wall(
            "account",
            is_linux and account.can_leave(),
            "trials run without root's account and without capabilities",
            "Linux, and a container whose root may change the account",
        ),
        Wall(
            "landlock",
            bool(abi),
            f"a trial sees its own files alone, and no other process (version {abi})",
            "Linux 5.13 or newer, and a container that permits its system calls",
        ),
        Wall(
            "seccomp",
            is_linux and seccomp.is_supported(),
            "a trial starts no process, signals none, and has no network",
            "Linux on x86-64 or aarch64",
        ),
    ]
