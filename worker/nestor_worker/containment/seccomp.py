"""Refuses the system calls that no trial needs: processes, signals, sockets, mounts, foreign memory. See seccomp(2).

The filter is a program of the classic Berkeley packet filter over <linux/seccomp.h>'s `seccomp_data`. A refused call
fails with EPERM, so that a library that only tries goes on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from nestor_worker.containment.kernel import prctl, syscall
from nestor_worker.containment.process import PR_SET_NO_NEW_PRIVS

SET_MODE_FILTER, GET_ACTION = 1, 2  # operations of seccomp(2)
ALL_THREADS = 1  # flag
ALLOW, ERRNO, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, AND, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06  # of packet filters, <linux/bpf_common.h>
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in seccomp_data; an argument has 8 bytes, the lower 4 first
X32 = 0x40000000  # added to the numbers of another interface of the same architecture
CLONE_THREAD = 0x10000
SOCKET_TYPE = 0xF  # without flags

COMMON = {  # numbers that are the same on all architectures, since Linux 5.1
    name: number
    for number, name in enumerate(
        "pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen fsconfig "
        "fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 process_madvise epoll_pwait2 "
        "mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret "
        "process_mrelease futex_waitv set_mempolicy_home_node cachestat fchmodat2".split(),
        424,
    )
}


@dataclass(frozen=True)
class Architecture:
    """What differs between processors: its id in <linux/audit.h>, and its numbers of system calls."""

    audit: int
    calls: dict[str, int] = field(default_factory=dict[str, int])


ARCHITECTURES = {
    "x86_64": Architecture(
        0xC000003E,
        {
            "shmget": 29, "socket": 41, "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58, "execve": 59,
            "kill": 62, "semget": 64, "msgget": 68, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94,
            "ptrace": 101, "syslog": 103, "utime": 132, "mknod": 133, "personality": 135, "pivot_root": 155,
            "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166,
            "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "init_module": 175, "delete_module": 176,
            "quotactl": 179, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197,
            "lremovexattr": 198, "fremovexattr": 199, "tkill": 200, "clock_settime": 227, "tgkill": 234, "utimes": 235,
            "mq_open": 240, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256,
            "mknodat": 259, "fchownat": 260, "futimesat": 261, "fchmodat": 268, "unshare": 272, "move_pages": 279,
            "utimensat": 280, "perf_event_open": 298, "fanotify_init": 300, "prlimit64": 302, "name_to_handle_at": 303,
            "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
            "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "execveat": 322, "userfaultfd": 323,
            "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "seccomp": 317, "setpriority": 141, "sched_setparam": 142,
            "sched_setscheduler": 144, "sched_setaffinity": 203, "ioprio_set": 251, "sched_setattr": 314,
        },
    ),
    "aarch64": Architecture(
        0xC00000B7,
        {
            "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
            "mknodat": 33, "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "fchmod": 52, "fchmodat": 53,
            "fchownat": 54, "fchown": 55, "quotactl": 60, "utimensat": 88, "acct": 89, "personality": 92,
            "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106, "clock_settime": 112,
            "syslog": 116, "ptrace": 117, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138,
            "reboot": 142, "sethostname": 161, "settimeofday": 170, "adjtimex": 171, "mq_open": 180, "msgget": 186,
            "semget": 190, "shmget": 194, "socket": 198, "socketpair": 199, "add_key": 217, "request_key": 218,
            "keyctl": 219, "clone": 220, "execve": 221, "swapon": 224, "swapoff": 225, "migrate_pages": 238,
            "move_pages": 239, "rt_tgsigqueueinfo": 240, "perf_event_open": 241, "prlimit64": 261, "fanotify_init": 262,
            "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
            "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "seccomp": 277, "bpf": 280, "execveat": 281,
            "userfaultfd": 282, "kexec_file_load": 294, "ioprio_set": 30, "sched_setparam": 118,
            "sched_setscheduler": 119, "sched_setaffinity": 122, "setpriority": 140, "sched_setattr": 274,
        },
    ),
}  # fmt: skip

# Each of them is looked at below, by its arguments.
EXAMINED = ("clone", "clone3", "tgkill", "prlimit64", "sched_setaffinity", "socket", "socketpair")
# What is numbered above and harmless.
HARMLESS = (
    "close_range openat2 faccessat2 epoll_pwait2 landlock_create_ruleset landlock_add_rule landlock_restrict_self "
    "memfd_secret futex_waitv set_mempolicy_home_node cachestat seccomp"
).split()


def is_supported() -> bool:
    """Whether this kernel has it, on a processor whose calls are known."""
    here = ARCHITECTURES.get(os.uname().machine)
    try:
        return here is not None and syscall(here.calls["seccomp"], GET_ACTION, 0, struct.pack("I", ERRNO)) == 0
    except OSError:
        return False


def restrict(*, sockets: bool, local_sockets: bool) -> None:
    """Refuse what no trial needs, to all threads of this process. Does nothing where it is not supported.

    Args:
        sockets: allow TCP, over which the processes of one trial talk.
        local_sockets: allow sockets within this machine, over which the libraries of GPUs talk.

    Raises:
        OSError
    """
    if not is_supported():
        return
    architecture = ARCHITECTURES[os.uname().machine]
    instructions = filter_of(architecture, os.getpid(), sockets=sockets, local_sockets=local_sockets)
    code = ctypes.create_string_buffer(b"".join(instructions), 8 * len(instructions))
    program = struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    syscall(architecture.calls["seccomp"], SET_MODE_FILTER, ALL_THREADS, program)


def filter_of(architecture: Architecture, pid: int, *, sockets: bool, local_sockets: bool) -> list[bytes]:
    """The instructions of the filter for the process `pid`."""
    calls = architecture.calls | COMMON
    refused = [number for name, number in calls.items() if name not in (*EXAMINED, *HARMLESS)]
    families = [socket.AF_UNIX] * local_sockets + [socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK] * sockets
    return [
        _instruction(LOAD, ARCHITECTURE),
        _instruction(EQUAL, architecture.audit, 1, 0),
        _instruction(RETURN, KILL_PROCESS),
        _instruction(LOAD, NUMBER),
        _instruction(AT_LEAST, X32, 0, 1),
        _refuse(),
        *(line for number in refused for line in _if_called(number, [_refuse()])),
        *_if_called(calls["clone3"], [_refuse(errno.ENOSYS)]),  # then glibc calls clone, whose flags a filter can read
        *_if_called(calls["clone"], [*_argument(0, CLONE_THREAD), _instruction(EQUAL, CLONE_THREAD, 1, 0), _refuse()]),
        *_if_called(calls["tgkill"], [*_argument(0), _instruction(EQUAL, pid, 1, 0), _refuse()]),
        *_if_called(calls["prlimit64"], [*_argument(0), *_unless_one_of([0, pid])]),
        *_if_called(calls["sched_setaffinity"], [*_argument(0), *_unless_one_of([0, pid])]),
        *_if_called(calls["socketpair"], [_refuse()] * (not local_sockets)),
        *_if_called(calls["socket"], [*_argument(0), *_unless_one_of(families), *_no_datagrams()]),
        _instruction(RETURN, ALLOW),
    ]  # fmt: skip


def _if_called(number: int, then: list[bytes]) -> list[bytes]:
    """Instructions for one call, whose number is loaded, and an end for those among them that do not refuse."""
    if not then:
        return []
    body = then if then[-1] == _refuse() and len(then) == 1 else [*then, _instruction(RETURN, ALLOW)]
    return [_instruction(EQUAL, number, 0, len(body)), *body]


def _argument(index: int, mask: int | None = None) -> list[bytes]:
    """Load the lower half of an argument."""
    load = _instruction(LOAD, ARGUMENTS + 8 * index)
    return [load] if mask is None else [load, _instruction(AND, mask)]


def _unless_one_of(values: Sequence[int]) -> list[bytes]:
    """Refuse what is loaded, unless it is one of these values."""
    n = len(values)
    return [*(_instruction(EQUAL, value, n - i, 0) for i, value in enumerate(values)), _refuse()]


def _no_datagrams() -> list[bytes]:
    """Refuse datagrams of the network: UDP needs no connection that landlock could refuse."""
    return [*_argument(1, SOCKET_TYPE), _instruction(EQUAL, socket.SOCK_DGRAM, 0, 1), _refuse()]


def _refuse(number: int = errno.EPERM) -> bytes:
    return _instruction(RETURN, ERRNO | number)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
