"""The snapshots of trials in this process: in memory up to a budget that all trials share, and on disk beyond it."""

from __future__ import annotations

import itertools
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nestor.errors import SnapshotMemoryInvalid, SnapshotNotWritten, shown
from nestor.local import scratch
from nestor.local.packed import Packed

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "NESTOR_SNAPSHOT_MEMORY_BYTES"
DEFAULT_BYTES = 256 * 2**20

_stores: weakref.WeakValueDictionary[int, SnapshotStore] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def memory_budget() -> int:
    """Bytes that the snapshots of all trials in this process may take: NESTOR_SNAPSHOT_MEMORY_BYTES, or 256 MiB.

    Raises:
        SnapshotMemoryInvalid: the variable is not a number of bytes.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        return DEFAULT_BYTES
    if not given.isdecimal():
        raise SnapshotMemoryInvalid(given=shown(given))
    return int(given)


def bytes_in_memory() -> int:
    """Bytes that the snapshots of all trials in this process take, without the newest one of each trial."""
    # A list of references, because other threads create stores meanwhile.
    return sum(store.nbytes for reference in _stores.valuerefs() if (store := reference()) is not None)


class SnapshotStore:
    """One trial's snapshots by step. The trial's lock guards it.

    The newest snapshot takes no memory, because the trial's state holds the same tensors. The others count toward the
    budget of the process. A trial that exceeds the budget moves its own oldest snapshots to disk. The files are removed
    with the store, and at the latest with the process.

    Attributes:
        nbytes: bytes in memory, without the newest snapshot.
        essential: steps that stay in memory if the disk is full. Other snapshots that cannot be written are dropped.

    Raises:
        SnapshotMemoryInvalid: NESTOR_SNAPSHOT_MEMORY_BYTES is not a number of bytes.
    """

    def __init__(self) -> None:
        self._budget, self._number = memory_budget(), next(_numbers)
        self.nbytes, self.essential = 0, frozenset[int]()
        self._memory: dict[int, Packed] = {}  # in the order of their arrival
        self._newest: tuple[int, dict[str, Tensor]] | None = None
        self._files: dict[int, Path] = {}
        self._failing, self._news = False, list[str]()
        self._finalizer = weakref.finalize(self, _remove, self._files)
        self._finalizer.atexit = False  # the whole directory is removed then
        _stores[self._number] = self

    def __iter__(self) -> Iterator[int]:
        newest = [] if self._newest is None else [self._newest[0]]
        return iter([*self._files, *self._memory, *newest])

    def __setitem__(self, step: int, hparams: dict[str, Tensor]) -> None:
        """Keep the snapshot of a step, which is the newest from now on. Its tensors must not change any more."""
        self.discard(step)
        before, self._newest = self._newest, (step, hparams)
        if before is not None:
            packed = self._memory[before[0]] = Packed.of(before[1])
            self.nbytes += packed.nbytes
            self._make_room()

    def get(self, step: int) -> dict[str, Tensor] | None:
        """The snapshot of a step, mapped from its file if it is on disk; None if it was not kept."""
        if self._newest is not None and step == self._newest[0]:
            return self._newest[1]
        if step in self._memory:
            return self._memory[step].tensors()
        path = self._files.get(step)
        if path is None:
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] its paths are not typed

        try:
            return load_file(path)
        except (OSError, SafetensorError):  # something has cleaned up the directory of temporary files
            self.discard(step)
            return None

    def discard(self, step: int) -> None:
        """Drop the snapshot of a step, if there is one."""
        if step in self._files:
            scratch.remove(self._files.pop(step))
        elif step in self._memory:
            self.nbytes -= self._memory.pop(step).nbytes
        elif self._newest is not None and step == self._newest[0]:
            self._newest = None

    def clear(self) -> None:
        """Drop all snapshots."""
        for step in list(self):
            self.discard(step)

    def news(self) -> list[str]:
        """A sentence if snapshots can no longer be written. It is returned once, until writing succeeds again."""
        news, self._news = self._news, []
        return news

    def _make_room(self) -> None:
        """Move the oldest snapshots to disk until the process is within its budget. Drop them if the disk is full."""
        excess, full = bytes_in_memory() - self._budget, False
        for step in list(self._memory):
            if excess <= 0:
                return
            nbytes = self._memory[step].nbytes
            if not full:
                full = not self._write(step)
            if not full or step not in self.essential:
                excess -= nbytes
            if full and step not in self.essential:
                self.discard(step)

    def _write(self, step: int) -> bool:
        """Move a snapshot to disk; whether that was possible."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType] its paths are not typed

        try:
            path = scratch.directory() / f"{self._number}-{step}.safetensors"
            save_file(self._memory[step].tensors(), path)  # gets its name when it is complete
        except (OSError, SafetensorError) as error:
            if not self._failing:
                where = tempfile.gettempdir()
                sentence = SnapshotNotWritten(reason=error, directory=where, variable=VARIABLE, budget=self._budget)
                self._news.append(str(sentence))
            self._failing = True
            return False
        self._failing = False
        self.nbytes -= self._memory.pop(step).nbytes
        self._files[step] = path
        return True


def _remove(files: dict[int, Path]) -> None:
    for path in files.values():
        scratch.remove(path)
