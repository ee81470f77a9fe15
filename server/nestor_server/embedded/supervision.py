"""Starts child processes again that end: after pauses that double, until one has ended too often in a row."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from nestor_server.embedded.errors import EndsAgain
from nestor_server.embedded.process import Child, describe_exit

MAX_RESTARTS = 5
FIRST_PAUSE_SECONDS = 0.5  # doubles with every restart
STEADY_SECONDS = 60.0  # a child that ran for this long may use all its restarts again
FREE_SECONDS = 60.0  # for what an ended child has left behind


@dataclass
class _Watched:
    child: Child
    is_free: Callable[[], bool]
    ends: int = 0  # in a row
    due: float | None = None  # when an ended child is started again


@final
class Supervisor:
    """Watches the children of this process. Use it in the main thread.

    Args:
        say: is called with a sentence for each child that ended.
        on_restart: is called with each child that was started again.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        on_restart: Callable[[Child], None],
        *,
        first_pause: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        self._say, self._on_restart, self._first_pause = say, on_restart, first_pause
        self._watched: list[_Watched] = []

    def add(self, child: Child, *, is_free: Callable[[], bool] = lambda: True) -> None:
        """Watch a child that runs.

        Args:
            is_free: whether nothing of an ended child keeps it from starting again. After `FREE_SECONDS`, it is
                started anyway.
        """
        self._watched.append(_Watched(child, is_free))

    def check(self) -> None:
        """Start those children again whose pause is over, and let the pause of those begin that have ended.

        Raises:
            EndsAgain: a child ended too often.
        """
        for watched in self._watched:
            if watched.due is None:
                if (code := watched.child.poll()) is not None:
                    self._ended(watched, describe_exit(code))
            elif (late := time.monotonic() - watched.due) >= 0 and (watched.is_free() or late > FREE_SECONDS):
                self._start(watched)

    def hurry(self, name: str) -> None:
        """Start the child `name` now if it waits for its restart: others need it to stop in order."""
        for watched in self._watched:
            if watched.child.name == name and watched.due is not None:
                self._start(watched)

    def _start(self, watched: _Watched) -> None:
        watched.child.stop()  # ends its watchdog
        watched.child.start()
        watched.due = None
        self._on_restart(watched.child)

    def _ended(self, watched: _Watched, how: str) -> None:
        child = watched.child
        watched.ends = 1 if child.seconds > STEADY_SECONDS else watched.ends + 1
        if watched.ends > MAX_RESTARTS:
            raise EndsAgain(name=child.name, how=how, times=watched.ends, log=str(child.log), tail=child.log_tail())
        pause = self._first_pause * 2 ** (watched.ends - 1)
        self._say(f"{child.name} ended with {how}; restarting it in {pause:g} s. Its log: {child.log}")
        watched.due = time.monotonic() + pause
