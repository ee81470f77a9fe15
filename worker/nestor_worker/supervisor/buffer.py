"""Buffers the runner's messages for the next transaction. The files that they name wait on the disk."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from pydantic import ValidationError

from nestor.schemas import Distributions, HyperparameterInfo, RecordedEntries, Step
from nestor_server.scheduling.recording import CHECKPOINTS_KEPT, LogRecord, RecordedBatch, TensorFile
from nestor_worker import channel
from nestor_worker.channel import (
    ChannelBroken,
    Checkpoint,
    Distributed,
    LogLine,
    Message,
    Result,
    Snapshot,
    Started,
    Stepped,
)

LARGE_BYTES = 64 * 2**20  # of tensors per transaction; the last tensor may exceed it

Entry = Step | Distributions | Snapshot | Checkpoint | Result | LogRecord | tuple[HyperparameterInfo, ...]


class RecordBuffer:
    """Validates messages and returns them in batches: the same batch until it is recorded."""

    def __init__(self, directory: Path, *, max_bytes: int) -> None:
        self._directory, self._max_bytes = directory, max_bytes
        self._entries: deque[Entry] = deque()
        self._batch, self._taken, self._number = RecordedBatch(), list[str](), 0
        self._seconds: float | None = None  # wall time of training at the newest step
        self._checkpoint = self._recorded_checkpoint = ""  # the newest in any batch; the newest in a recorded one

    @property
    def is_large(self) -> bool:
        """Whether the waiting files fill a transaction."""
        files = (entry.file for entry in self._entries if isinstance(entry, Snapshot | Checkpoint | Result))
        return sum(self._size(file) for file in files) >= LARGE_BYTES

    def add(self, message: Message) -> None:
        """Buffer one message.

        Raises:
            ChannelBroken: a runner may not send it, or its contents are invalid.
        """
        try:
            match message:
                case Stepped(record, seconds):
                    self._entries.append(Step.model_validate(record))
                    self._seconds = seconds
                case Distributed(record):
                    self._entries.append(Distributions.model_validate(record))
                case Snapshot(file=file, entries=entries):
                    channel.check_name(file)
                    if entries is not None:
                        RecordedEntries.model_validate(entries)
                    self._entries.append(message)
                case Checkpoint(file=file) | Result(file=file):
                    channel.check_name(file)
                    self._entries.append(message)
                    self._forget_old(type(message))
                case LogLine(step, text, level):
                    self._entries.append(LogRecord(step, text, level))
                case Started(hyperparameters):
                    self._entries.append(tuple(HyperparameterInfo.model_validate(info) for info in hyperparameters))
                case _:
                    raise ChannelBroken(f"a runner may not send {type(message).__name__}")
        except ValidationError as error:
            raise ChannelBroken(str(error)) from error

    def batch(self) -> RecordedBatch:
        """What is to be recorded next: the same batch until `recorded`, because its commit may have succeeded unseen.

        Raises:
            ChannelBroken: a file that a message named cannot be read.
        """
        if not self._batch and self._entries:
            self._batch = self._next()
        return self._batch

    def recorded(self) -> None:
        """Note that the batch was recorded, and delete its files except for the newest checkpoint."""
        for name in {*self._taken, self._recorded_checkpoint} - {self._checkpoint, ""}:
            (self._directory / name).unlink(missing_ok=True)
        self._batch, self._taken, self._recorded_checkpoint = RecordedBatch(), [], self._checkpoint

    def checkpoint(self) -> bytes | None:
        """The newest recorded checkpoint; None before the first one.

        Raises:
            ChannelBroken: its file cannot be read any more.
        """
        return self._load(self._recorded_checkpoint) if self._recorded_checkpoint else None

    def _next(self) -> RecordedBatch:
        steps: list[Step] = []
        distributions: list[Distributions] = []
        snapshots: list[TensorFile] = []
        checkpoints: list[TensorFile] = []
        results: list[TensorFile] = []
        logs: list[LogRecord] = []
        infos, nbytes = None, 0
        while self._entries and nbytes < LARGE_BYTES:
            match self._entries.popleft():
                case Step() as step:
                    steps.append(step)
                case Distributions() as distributed:
                    distributions.append(distributed)
                case Snapshot(step, file, replaces, recorded):
                    snapshots.append(TensorFile(step, self._read(file), tuple(replaces), recorded))
                    nbytes += len(snapshots[-1].data)
                case Checkpoint(step, file):
                    checkpoints.append(TensorFile(step, self._read(file)))
                    self._checkpoint = file
                    nbytes += len(checkpoints[-1].data)
                case Result(step, file):
                    results.append(TensorFile(step, self._read(file)))
                    nbytes += len(results[-1].data)
                case LogRecord() as log:
                    logs.append(log)
                case described:
                    infos = described
        self._number += 1
        return RecordedBatch(
            steps=tuple(steps),
            distributions=tuple(distributions),
            snapshots=tuple(snapshots),
            checkpoints=tuple(checkpoints),
            results=tuple(results),
            logs=tuple(logs),
            hyperparameters=infos,
            seconds=self._seconds,
            number=self._number,
        )

    def _forget_old(self, kind: type[Checkpoint] | type[Result]) -> None:
        """Keep only as many as the database would keep. Otherwise the disk fills while the database does not answer."""
        waiting = [entry for entry in self._entries if isinstance(entry, kind)]
        for old in waiting[:-CHECKPOINTS_KEPT]:
            self._entries.remove(old)
            (self._directory / old.file).unlink(missing_ok=True)

    def _read(self, name: str) -> bytes:
        data = self._load(name)
        self._taken.append(name)
        return data

    def _load(self, name: str) -> bytes:
        return channel.read_file(self._directory, name, limit=self._max_bytes)

    def _size(self, name: str) -> int:
        try:
            return (self._directory / name).lstat().st_size
        except OSError:
            return 0  # `_read` will raise the error
