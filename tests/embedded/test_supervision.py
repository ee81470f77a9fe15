"""A child that ends is started again, after pauses that double, until it has ended too often in a row."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nestor_server.embedded import supervision
from nestor_server.embedded.errors import EndsAgain
from nestor_server.embedded.process import Child
from nestor_server.embedded.supervision import MAX_RESTARTS, Supervisor


class Family:
    """A supervisor with one child, which writes a line for each start."""

    def __init__(self, directory: Path, code: str, is_free: Callable[[], bool]) -> None:
        code = f"import sys, time; print('started', flush=True); {code}"
        self.log = directory / "part.log"
        self.said: list[str] = []
        self.child = Child("part", [sys.executable, "-c", code], log=self.log, env=dict(os.environ), cwd=directory)
        self.supervisor = Supervisor(self.said.append, lambda _: None, first_pause=0.01)
        self.child.start()
        self.supervisor.add(self.child, is_free=is_free)

    @property
    def starts(self) -> int:
        return self.log.read_text().count("started")

    def check_until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not reached():
            assert time.monotonic() < end, self.said
            self.supervisor.check()
            time.sleep(0.005)


@pytest.fixture
def start(tmp_path: Path):
    families: list[Family] = []

    def start(code: str, is_free: Callable[[], bool] = lambda: True) -> Family:
        families.append(Family(tmp_path, code, is_free))
        return families[-1]

    yield start
    for family in families:
        family.child.stop()


def test_one_that_ends_at_once_each_time_ends_everything_with_what_to_do_and_where_its_log_is(start):
    family = start("sys.exit('the disk is full')")
    with pytest.raises(EndsAgain) as raised:
        family.check_until(lambda: False)
    assert family.starts == 1 + MAX_RESTARTS
    assert [line.split("restarting it in ")[1].split(" s.")[0] for line in family.said] == [
        "0.01", "0.02", "0.04", "0.08", "0.16",
    ]  # fmt: skip
    said = str(raised.value)
    assert f"part ended {1 + MAX_RESTARTS} times in a row, the last time with exit code 1" in said
    assert "start `nestor up` again: the data stay" in said
    assert f"Its log is {family.log}; it ends with:\nstarted\nthe disk is full" in said


def test_one_that_ran_for_long_may_use_all_its_restarts_again(start, monkeypatch):
    monkeypatch.setattr(supervision, "STEADY_SECONDS", 0.0)
    family = start("")
    family.check_until(lambda: family.starts > 2 * MAX_RESTARTS)
    assert {line.split("restarting it in ")[1].split(" s.")[0] for line in family.said} == {"0.01"}


def test_one_is_not_started_while_what_it_left_behind_is_in_use(start):
    """As PostgreSQL after a kill of its main process alone."""
    free = False
    asked = 0

    def is_free() -> bool:
        nonlocal asked
        asked += 1
        return free

    family = start("", is_free)
    family.check_until(lambda: asked > 3)
    assert family.starts == 1
    free = True
    family.check_until(lambda: family.starts == 2)


def test_one_that_others_need_is_started_before_its_pause_is_over(start):
    family = start("time.sleep(60)")
    family.child.signal_stop()
    family.check_until(lambda: bool(family.said))
    family.supervisor.hurry("another")
    assert family.child.poll() is not None
    family.supervisor.hurry("part")
    assert family.child.poll() is None
