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
        self._memory: dict[int, dict[str, Tensor]] = {}  # in the order of their arrival
        self._newest: int | None = None  # the last of these, if it was not discarded
        self._files: dict[int, Path] = {}
        self._failing, self._news = False, list[str]()
        self._finalizer = weakref.finalize(self, _remove, self._files)
        self._finalizer.atexit = False  # the whole directory is removed then
        _stores[self._number] = self

    def __iter__(self) -> Iterator[int]:
        return iter({**self._memory, **self._files})

    def __setitem__(self, step: int, hparams: dict[str, Tensor]) -> None:
        """Keep the snapshot of a step, which is the newest from now on. Its tensors must not change any more."""
        self.discard(step)
        grown = self._newest is not None
        if self._newest is not None:
            self._memory[self._newest] = _compact(self._memory[self._newest])
            self.nbytes += _nbytes(self._memory[self._newest])
        self._memory[step], self._newest = hparams, step
        if grown:
            self._make_room()

    def get(self, step: int) -> dict[str, Tensor] | None:
        """The snapshot of a step, mapped from its file if it is on disk; None if it was not kept."""
        path = self._files.get(step)
        if path is None:
            return self._memory.get(step)
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
            hparams = self._memory.pop(step)
            if step == self._newest:
                self._newest = None
            else:
                self.nbytes -= _nbytes(hparams)

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
        for step in [step for step in self._memory if step != self._newest]:
            if excess <= 0:
                return
            nbytes = _nbytes(self._memory[step])
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
            save_file(self._memory[step], path)  # gets its name when it is complete
        except (OSError, SafetensorError) as error:
            if not self._failing:
                where = tempfile.gettempdir()
                sentence = SnapshotNotWritten(reason=error, directory=where, variable=VARIABLE, budget=self._budget)
                self._news.append(str(sentence))
            self._failing = True
            return False
        self._failing = False
        self.nbytes -= _nbytes(self._memory.pop(step))
        self._files[step] = path
        return True


def _remove(files: dict[int, Path]) -> None:
    for path in files.values():
        scratch.remove(path)


def _nbytes(hparams: dict[str, Tensor]) -> int:
    return sum(value.nbytes for value in hparams.values())


def _compact(hparams: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values in memory of the host and of their own: a view would keep a larger tensor alive."""
    import torch

    own: dict[str, Tensor] = {}
    seen = set[int]()
    for name, value in hparams.items():
        here = value.detach().cpu()
        storage = here.untyped_storage()
        if not here.is_contiguous() or storage.nbytes() > here.nbytes or storage.data_ptr() in seen:
            here = here.clone(memory_format=torch.contiguous_format)
        seen.add(here.untyped_storage().data_ptr())
        own[name] = here
    return own
