"""The runner's messages on their way to a transaction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from nestor.schemas import HyperparameterInfo, Step
from nestor_server.services.recording import Batch, Log, Tensors
from nestor_worker import channel
from nestor_worker.channel import ChannelBroken, Checkpoint, Message, Said, Snapshot, Started, Stepped

LARGE_BYTES = 64 * 2**20  # of tensors: no more is kept waiting


class Gathering:
    """Collects messages, checked, until they are taken as one batch."""

    def __init__(self, directory: Path, *, max_bytes: int) -> None:
        self._directory, self._max_bytes = directory, max_bytes
        self._batch, self._bytes = Batch(), 0

    @property
    def is_large(self) -> bool:
        return self._bytes >= LARGE_BYTES

    def add(self, message: Message) -> None:
        """Take one message and the file that it names.

        Raises:
            ChannelBroken: it is not what a runner says.
        """
        batch = self._batch
        try:
            match message:
                case Stepped(record):
                    batch = replace(batch, steps=(*batch.steps, Step.model_validate(record)))
                case Snapshot(step, file, replaces):
                    batch = replace(batch, snapshots=(*batch.snapshots, Tensors(step, self._read(file), replaces)))
                case Checkpoint(step, file):
                    batch = replace(batch, checkpoints=(*batch.checkpoints, Tensors(step, self._read(file))))
                case Said(step, text, level):
                    batch = replace(batch, logs=(*batch.logs, Log(step, text, level)))
                case Started(hyperparameters, device, step):
                    infos = tuple(HyperparameterInfo.model_validate(info) for info in hyperparameters)
                    where = "from the beginning" if step == 0 else f"on from step {step}"
                    logs = (*batch.logs, Log(step, f"runs on {device}, {where}"))
                    batch = replace(batch, hyperparameters=infos, logs=logs)
                case _:
                    raise ChannelBroken(f"a runner does not say {type(message).__name__}")
        except ValidationError as error:
            raise ChannelBroken(str(error)) from error
        self._batch = batch

    def take(self) -> Batch:
        batch, self._batch, self._bytes = self._batch, Batch(), 0
        return batch

    def _read(self, name: str) -> bytes:
        data = channel.take_file(self._directory, name, limit=self._max_bytes)
        self._bytes += len(data)
        return data
