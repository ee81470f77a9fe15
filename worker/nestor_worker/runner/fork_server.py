"""Forks runners from a process that has loaded what they need: `python -m nestor_worker.runner.fork_server DIRECTORY`.

Loading torch and running a first step takes seconds of processor time, a fork takes milliseconds, and forked processes
share the memory of what was loaded. DIRECTORY is this process's own; its name says to which worker it belongs.

A lock that another thread holds during a fork stays locked forever in the child. So this process starts no threads:
torch computes in one, and OpenBLAS ends its own before a fork. It uses no GPU, whose driver does not survive a fork.
"""

from __future__ import annotations

import gc
import os
import selectors
import socket
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from nestor_worker import forks
from nestor_worker.containment import process
from nestor_worker.forks import ForkRequest
from nestor_worker.runner import main as runner
from nestor_worker.runner import preload


def main() -> None:
    """Load what runners need. Then fork one for each request on standard input, until the worker ends."""
    process.end_with_parent()
    process.rename("nestor-forks")
    _Server(socket.socket(fileno=os.dup(0)), is_loaded=_load()).serve()


def _load() -> bool:
    """Whether everything could be loaded. Otherwise each runner tries it again, and its log has the error."""
    try:
        preload.load(lambda: False)
    except Exception:
        traceback.print_exc()
        return False
    # A collection of garbage writes to all objects, and so copies the memory that runners share.
    gc.collect()
    gc.freeze()
    return True


class _Server:
    def __init__(self, control: socket.socket, *, is_loaded: bool) -> None:
        self._control, self._is_loaded = control, is_loaded
        self._answers: dict[int, socket.socket] = {}  # process id → where its exit code is sent
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._control:
                    received = forks.receive(self._control)
                    if received is None:
                        return
                    self._fork(*received)
                else:
                    self._selector.unregister(key.fileobj)
                    os.close(key.fd)
                    self._report_exit(key.data)

    def _fork(self, request: ForkRequest, files: list[int]) -> None:
        *streams, last = files
        answers = socket.socket(fileno=last)
        pid = None
        if not forks.is_withdrawn(answers):
            try:
                pid = os.fork()
            except OSError:  # no memory, or too many processes; the worker sees that there will be no answer
                traceback.print_exc()
        if pid == 0:
            self._become_runner(request, streams, answers)
        for stream in streams:
            os.close(stream)
        if pid is None:
            answers.close()
        else:
            self._answers[pid] = answers
            self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)

    def _report_exit(self, pid: int) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with self._answers.pop(pid) as answers, suppress(OSError):  # nobody may wait for it any more
            answers.send(str(code).encode())

    def _become_runner(self, request: ForkRequest, streams: list[int], answers: socket.socket) -> NoReturn:
        try:
            os.setsid()
            answers.send(str(os.getpid()).encode())  # not before: the worker kills the group of this process
            self._close_inherited()
            answers.close()
            for target, stream in enumerate(streams):
                os.dup2(stream, target)
                os.close(stream)
            os.environ.clear()
            os.environ.update(request.environment)
            os.chdir(request.directory)
            tempfile.tempdir = None  # it may hold the TMPDIR of this process's parent
            # As in a new process. Python seeds its own generator after a fork, and torch's is as `preload` found it.
            if (numpy := sys.modules.get("numpy")) is not None:
                numpy.random.seed()
            runner.run(Path(request.directory), request.rank, is_loaded=self._is_loaded)
        except BaseException:
            traceback.print_exc()
        os._exit(1)

    def _close_inherited(self) -> None:
        """Close what connects the parent with the worker and with this runner's siblings."""
        for key in self._selector.get_map().values():
            if key.fileobj is not self._control:
                os.close(key.fd)
        self._selector.close()
        self._control.close()
        for answers in self._answers.values():
            answers.close()


if __name__ == "__main__":
    main()
