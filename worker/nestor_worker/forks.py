"""What a fork server and its worker say to each other: a request, then the process id and the exit code.

A request travels with the files of the new process. The answers come on a socket that was sent with it, so that
requests need no numbers. All sockets keep the boundaries of messages.
"""

from __future__ import annotations

import json
import os
import select
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_REQUEST = 65_536  # bytes; an environment of a few variables takes a tenth of it
FILES = 4  # of a request: standard input, output and error, and the socket for the answers


@dataclass(frozen=True)
class ForkRequest:
    """A runner is to be forked.

    Attributes:
        rank: of this process among those of its trial.
    """

    directory: str
    rank: int
    environment: dict[str, str]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep the boundaries of messages, and of which one reads the end of the other."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(control: socket.socket, request: ForkRequest, files: list[int]) -> None:
    """Ask for a runner with these FILES. The caller may close them.

    Raises:
        OSError: the fork server has ended.
    """
    socket.send_fds(control, [json.dumps(asdict(request)).encode()], files)


def receive(control: socket.socket) -> tuple[ForkRequest, list[int]] | None:
    """The next request with its files; None if the worker has ended."""
    data, files, _, _ = socket.recv_fds(control, MAX_REQUEST, FILES)
    return (ForkRequest(**json.loads(data)), files) if data else None


def is_withdrawn(answers: socket.socket) -> bool:
    """Whether nobody waits for these answers any more."""
    return bool(select.select([answers], [], [], 0)[0])  # the worker sends nothing here, so this is the end


def can_fork() -> bool:
    """Whether this machine has what a fork server needs. On macOS, system libraries do not survive a fork."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # another system, or a Linux before 5.3
        return False
    return hasattr(socket, "SOCK_SEQPACKET") and Path("/proc/self/task").exists()
