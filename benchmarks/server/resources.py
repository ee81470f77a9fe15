"""Processor time and memory of groups of processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import psutil

Groups = dict[str, list[int]]  # the roots of each group, which has all their descendants


def family(roots: Iterable[int]) -> Iterator[psutil.Process]:
    """The processes of a group that run now."""
    for pid in roots:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            yield root
            yield from root.children(recursive=True)


def processor_seconds(roots: Iterable[int]) -> float:
    """What the group has used, with its processes that have ended."""
    total = 0.0
    for process in family(roots):
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            total += used.user + used.system + used.children_user + used.children_system
    return total


def memory(roots: Iterable[int], *, shared: bool = False) -> float:
    """MB of the group. Pages that several processes share count once, unless `shared`: then in each, which is fast."""
    total = 0
    for process in family(roots):
        with suppress(psutil.Error):
            total += process.memory_info().rss if shared else process.memory_full_info().pss
    return total / 1e6
