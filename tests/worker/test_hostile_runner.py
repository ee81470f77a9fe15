"""A supervisor carries the trials of all its slots, so no runner can exhaust or confuse it, whatever it says."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from nestor.schemas import EventType, State
from nestor_server.models import Trial
from nestor_worker.supervisor.attempt import supervise
from nestor_worker.supervisor.runners.inbox import LOG_BYTES, Inbox, RunnerLog
from tests.support.packages import install
from tests.worker.trials import claim, events

POINT = "hostile:factory"
MIB = 2**20
SOURCE = '''
import json, os, time

def pipe():
    """Where the runner's messages go."""
    fds = [int(fd) for fd in os.listdir("/proc/self/fd")]
    named = {}
    for fd in fds:
        try:
            named[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    return next(fd for fd, name in named.items() if fd > 2 and name.startswith("pipe"))

def send(data):
    while data:
        data = data[os.write(pipe(), data):]

SAYS = {
    "garbage": lambda: send(b"\\x80\\x00 garbage\\n"),
    "a line without end": lambda: [send(bytes(2**20)) for _ in range(300)],
    "a deep document": lambda: send(b"[" * 2**20 + b"\\n"),
    "a wide document": lambda: send(b'{"do": "stepped", "record": {"number": [' + b"[]," * 10**6 + b"0]}}\\n"),
    "a huge number": lambda: send(b'{"do": "logline", "text": "", "step": 1' + b"0" * 10**6 + b"}\\n"),
    "a message of the supervisor": lambda: send(b'{"do": "stop"}\\n'),
    "a file outside": lambda: send(b'{"do": "result", "step": 1, "file": "../../secret"}\\n'),
    "a file that is not there": lambda: send(b'{"do": "checkpoint", "step": 1, "file": "absent"}\\n'),
    "text that cannot be stored": lambda: send(b'{"do": "logline", "step": 0, "text": "\\\\u0000"}\\n'),
}

def factory(says):
    if says == "gigabytes of log":
        for _ in range(1024):
            os.write(2, bytes(2**20))
        raise ValueError("the log is full")
    if says == "many messages":
        line = json.dumps({"do": "logline", "step": 0, "text": "x" * 1000}).encode() + b"\\n"
        for _ in range(100):
            send(line * 100)
        raise ValueError("everything is said")
    SAYS[says]()
    time.sleep(3600)
'''


@contextmanager
def peak_of_memory() -> Iterator[list[int]]:
    """Bytes by which this process grows at most, in a list that is filled at the end."""
    process, found, stopped = psutil.Process(), list[int](), threading.Event()
    before = most = process.memory_info().rss

    def sample() -> None:
        nonlocal most
        while not stopped.wait(0.01):
            most = max(most, process.memory_info().rss)

    sampling = threading.Thread(target=sample)
    sampling.start()
    yield found
    stopped.set()
    sampling.join()
    found.append(most - before)


@pytest.fixture
def hostile(sessions, worker_settings, new_trial, slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The state, the reason and the growth of the supervisor after a runner that says something."""
    install(tmp_path, "hostile", SOURCE, {"factory": POINT})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(says: str) -> tuple[State | None, str, int]:
        spec = {"n_steps": 10, "problem": {"entry_point": POINT, "params": {"says": says}}}
        trial = new_trial(spec=spec)
        lease = claim(sessions, trial.id)
        executed = dataclasses.replace(slot, fork_server=None)
        with peak_of_memory() as grown:
            state = supervise(sessions, worker_settings, lease, executed, executed.spawn(), threading.Event())
        with sessions() as session:
            row = session.get_one(Trial, trial.id)
            why = events(session, trial.id, EventType.state)[-1]["why"]
            return state, f"{why} {(row.error or {}).get('detail', '')}", grown[0]

    return run


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("garbage", "invalid message"),
        ("a line without end", "longer than 8388608 bytes"),
        ("a deep document", "invalid message"),
        ("a wide document", "invalid message"),
        ("a huge number", "invalid message"),
        ("a message of the supervisor", "may not send Stop"),
        ("a file outside", "is not the name of a file"),
        ("a file that is not there", "cannot be read"),
        ("text that cannot be stored", "its supervisor failed"),
    ],
)
def test_what_is_no_message_ends_the_attempt_and_nothing_else(hostile, says, reason):
    state, why, grown = hostile(says)
    assert state is State.queued
    assert reason in why
    assert len(why) < 3_000
    assert grown < 300 * MIB


@pytest.mark.parametrize("says", ["gigabytes of log", "many messages"])
def test_much_of_what_is_allowed_takes_bounded_memory(hostile, says):
    state, why, grown = hostile(says)
    assert state is State.failed
    assert ("the log is full" if "log" in says else "everything is said") in why
    assert grown < 300 * MIB


def test_an_inbox_holds_so_many_bytes_and_one_message_more():
    inbox = Inbox(limit=10)
    inbox.put(None, 6)
    inbox.put(None, 6)
    waiting = threading.Thread(target=inbox.put, args=(None, 1))
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()
    assert inbox.get(timeout=1) is None
    waiting.join(timeout=60)
    assert not waiting.is_alive()


def test_a_log_keeps_its_end():
    log = RunnerLog("log")
    with open(log.target, "wb", closefd=False) as file:
        for i in range(10_000):
            file.write(b"line %d\n" % i)
        file.write(b"the last\n\n")
    log.started()
    assert log.last_line() == "the last"
    until = time.monotonic() + 60
    while len(log._end) > LOG_BYTES and time.monotonic() < until:
        time.sleep(0.01)
    assert len(log._end) <= LOG_BYTES
