"""Processes beside the load, so that neither shares an interpreter with the other. They end when this process does."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from examples.provenance import ROOT

Message = dict[str, Any]


class Helper:
    """A process that answers each line of JSON with one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._ready = False

    def ask(self, **message: Any) -> Any:
        """The answer to a message."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._ready:
            self._ready = bool(self._process.stdout.readline())
        print(json.dumps(message), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait(10)}")
        return json.loads(line)


@contextmanager
def helper(module: str, **options: Any) -> Iterator[Helper]:
    """`python -m module` as a helper, which has got `options` and may still import what it needs."""
    command = [sys.executable, "-m", module]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        print(json.dumps(options), file=process.stdin, flush=True)
        yield Helper(process)
    finally:
        with suppress(BrokenPipeError):  # it has ended by itself
            process.stdin.close()  # the end of its input ends it
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def options() -> Message:
    """In a helper, what it was started with."""
    return json.loads(sys.stdin.readline())


def answer(content: object) -> None:
    """In a helper, answer the last message."""
    print(json.dumps(content), flush=True)


def messages() -> Callable[[float], Message | None]:
    """In a helper, a function that waits some seconds for the next message; None if none came.

    It raises SystemExit when the input ends.
    """
    waiting: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            waiting.put(line)
        waiting.put("")

    threading.Thread(target=read, daemon=True).start()
    answer("ready")

    def following(seconds: float) -> Message | None:
        try:
            line = waiting.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if not line:
            raise SystemExit(0)
        return json.loads(line)

    return following
