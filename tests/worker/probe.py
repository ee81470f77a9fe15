"""What a hostile program would try, as the factory of a problem: it writes what came of each attempt, and ends."""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
READ_ALL_FILES = 1 << 2
X86 = os.uname().machine == "x86_64"


def call(number: int, *arguments: object) -> int:
    """A system call by its number on x86-64 and aarch64 alike."""
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def child() -> None:
    if os.fork() == 0:
        os._exit(0)


def raw_clone() -> None:
    if call(56 if X86 else 220, signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


def raw_clone3() -> None:
    arguments = (ctypes.c_uint64 * 11)(*([0] * 4), signal.SIGCHLD, *([0] * 6))
    if call(435, ctypes.byref(arguments), 88) == 0:
        os._exit(0)


def x32() -> None:
    if not X86:
        raise PermissionError("another processor")
    call(0x40000000 + 39)


def connect(family: int, kind: int, address: Any) -> None:
    with socket.socket(family, kind) as connection:
        connection.settimeout(2)
        connection.connect(address)


def listen() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        pass


def write(path: str, size: int = 1) -> None:
    with open(path, "wb") as file:
        for _ in range(0, size, 2**20):
            file.write(bytes(min(size, 2**20)))


def by_link(path: str) -> None:
    Path("link").symlink_to(path)
    Path("link").read_bytes()


def capabilities() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}
    del sets["CapBnd"]  # what a program that it starts could gain, if it could start one
    if not any(sets.values()):
        raise PermissionError("none")
    if sets == {"CapInh": 0, "CapPrm": READ_ALL_FILES, "CapEff": READ_ALL_FILES, "CapAmb": 0}:
        raise PermissionError("to read files that landlock allows")


def sockets() -> None:
    files = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    kinds = [os.readlink(file) for file in files if file.is_symlink()]
    if not any(kind.startswith("socket") for kind in kinds):
        raise PermissionError(str(kinds))


def other_account() -> None:
    if os.getuid() != 0:
        raise PermissionError("another account")


def attempts(aim: dict) -> dict[str, Callable[[], object]]:
    """What must be refused. `aim` names files and processes outside."""
    supervisor, pid = f"/proc/{aim['supervisor']}", aim["supervisor"]
    outside, secret = aim["outside"], aim["secret"]
    vector = (ctypes.c_uint64 * 2)(0, 8)
    return {
        "be root": other_account,
        "have capabilities": capabilities,
        "become root": lambda: os.setuid(0),
        "read a secret of the worker": lambda: Path(secret).read_bytes(),
        "read it by a link": lambda: by_link(secret),
        "read the users of the machine": lambda: Path("/etc/passwd").read_bytes(),
        "list the root directory": lambda: os.listdir("/"),
        "list the directory above": lambda: os.listdir(".."),
        "list the work directories of others": lambda: os.listdir(aim["temporary"]),
        "read the supervisor's environment": lambda: Path(f"{supervisor}/environ").read_bytes(),
        "read the supervisor's command": lambda: Path(f"{supervisor}/cmdline").read_bytes(),
        "open the supervisor's memory": lambda: open(f"{supervisor}/mem", "rb"),
        "list the supervisor's files": lambda: os.listdir(f"{supervisor}/fd"),
        "read the supervisor's memory": lambda: call(
            310 if X86 else 270, pid, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0
        ),
        "trace the supervisor": lambda: call(101 if X86 else 117, 16, pid, 0, 0),
        "limit the supervisor": lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, 100)),
        "hold the supervisor to one core": lambda: os.sched_setaffinity(pid, {0}),
        "give the supervisor the least priority": lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
        "schedule the supervisor when nothing else runs": lambda: os.sched_setscheduler(
            pid, os.SCHED_IDLE, os.sched_param(0)
        ),
        "signal the supervisor": lambda: os.kill(pid, 0),
        "signal a thread of the supervisor": lambda: call(234 if X86 else 131, pid, pid, 0),
        "hold the supervisor": lambda: os.pidfd_open(pid),
        "queue a signal to the supervisor": lambda: call(
            129 if X86 else 138, pid, 10, ctypes.create_string_buffer(128)
        ),
        "write outside": lambda: write(f"{outside}/file"),
        "write to the temporary directory": lambda: write(f"{aim['temporary']}/probe"),
        "truncate a file outside": lambda: os.truncate(secret, 0),
        "open a file outside to append": lambda: open(secret, "ab"),
        "remove a file outside": lambda: os.unlink(secret),
        "move a file out": lambda: (write("moved"), os.rename("moved", f"{outside}/moved")),
        "link a file in": lambda: os.link(secret, "linked"),
        "open everything to everybody": lambda: os.chmod(secret, 0o777),
        "give a file away": lambda: os.chown(outside, 1, 1),
        "change the times of a file": lambda: os.utime(outside, (0, 0)),
        "mark a file": lambda: os.setxattr(outside, "user.probe", b"1"),
        "change what is read-only": lambda: write(aim["object"]),
        "make a device": lambda: os.mknod("device", 0o600 | 0o020000, os.makedev(1, 1)),
        "make a pipe": lambda: os.mkfifo("pipe"),
        "open the memory of the machine": lambda: open("/dev/mem", "rb"),
        "change the kernel": lambda: open("/proc/sys/kernel/core_pattern", "wb"),
        "write a file without end": lambda: write("large", 2 * aim["file_bytes"]),
        "take memory without end": lambda: bytearray(2 * aim["memory_bytes"]),
        "raise the limit of files": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)),
        "raise the limit of memory": lambda: resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)),
        "connect by TCP": lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", aim["port"])),
        "listen by TCP": listen,
        "send by UDP": lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 53)),
        "open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "connect to a process of this machine": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, aim["socket"]),
        "ask the kernel about the network": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "have inherited a socket": sockets,
        "fork": child,
        "clone": raw_clone,
        "clone by the newer call": raw_clone3,
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "run a program": lambda: subprocess.run(["/bin/true"], check=True),
        "become a program": lambda: os.execv(sys.executable, [sys.executable, "-c", "pass"]),
        "use the calls of 32 bits": x32,
        "enter a namespace": lambda: call(272 if X86 else 97, 0x10000000),
        "mount": lambda: call(165 if X86 else 40, b"none", b".", b"tmpfs", 0, 0),
        "change the root directory": lambda: os.chroot("."),
        "load a program into the kernel": lambda: call(321 if X86 else 280, 0, ctypes.create_string_buffer(64), 64),
        "measure the machine": lambda: call(298 if X86 else 241, ctypes.create_string_buffer(128), 0, -1, -1, 0),
        "handle page faults": lambda: call(323 if X86 else 282, 0),
        "use a ring of requests": lambda: call(425, 1, ctypes.create_string_buffer(256)),
        "use keys": lambda: call(250 if X86 else 219, 0, -2, 1),
        "open a file by its handle": lambda: call(304 if X86 else 265, -100, ctypes.create_string_buffer(64), 0),
        "set the clock": lambda: call(227 if X86 else 112, 0, (ctypes.c_uint64 * 2)(1, 1)),
        "share memory that outlives it": lambda: call(29 if X86 else 194, 0, 4096, 0o1600),
        "make a queue": lambda: call(240 if X86 else 180, b"probe", os.O_CREAT | os.O_RDWR, 0o600, 0),
    }


def needs() -> dict[str, Callable[[], object]]:
    """What a trial must be able to do."""

    def thread() -> None:
        started = threading.Thread(target=lambda: None)
        started.start()
        started.join()

    return {
        "write in its directory": lambda: write("file"),
        "replace a file there": lambda: os.replace("file", "other"),
        "make a directory there": lambda: os.mkdir("directory"),
        "start a thread": thread,
        "choose its cores": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
        "import a module": lambda: importlib.import_module("xml.dom.minidom"),
        "draw random bytes": lambda: (os.urandom(8), Path("/dev/urandom").open("rb").read(1)),
        "see the processor": lambda: Path("/proc/cpuinfo").read_text(),
        "see itself": lambda: Path("/proc/self/status").read_text(),
        "write to nowhere": lambda: write("/dev/null"),
    }


def outcome(attempt: Callable[[], object]) -> str | None:
    """Why an attempt failed; None if it did not."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except (subprocess.SubprocessError, MemoryError, ValueError) as error:
        return repr(error)
    return None


def factory(aim: dict) -> object:
    """Try everything, write the outcomes to probe.json in the work directory, and end."""
    threads = len(os.listdir("/proc/self/task"))
    tried = {name: outcome(attempt) for name, attempt in attempts(aim).items()}
    needed = {name: outcome(attempt) for name, attempt in needs().items()}
    Path("probe.json").write_text(json.dumps({"attempts": tried, "needs": needed, "threads": threads}))
    raise ValueError("the probe has ended")
