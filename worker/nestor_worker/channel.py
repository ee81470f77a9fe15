"""The messages between supervisor and runner: one JSON object a line, one frozen dataclass a message.

Tensors are not sent here. They are files in the work directory, which are complete before a message names them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

LOST_PEER = 3  # the exit code of a process that ends because another process of its trial ended


class ChannelBroken(Exception):
    """The other side sent something that is not a message."""


# --- runner → supervisor --------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """The training begins."""

    hyperparameters: list[dict[str, Any]]  # schemas.HyperparameterInfo


@dataclass(frozen=True)
class Stepped:
    """One outer step was taken."""

    record: dict[str, Any]  # schemas.Step
    seconds: float = 0.0  # wall time of training until now, over all attempts


@dataclass(frozen=True)
class Distributed:
    """How the hyperparameters of one step are distributed, of which not every step is asked."""

    record: dict[str, Any]  # schemas.Distributions


@dataclass(frozen=True)
class Snapshot:
    """The hyperparameters of one step were written to `file`."""

    step: int
    file: str
    replaces: list[int] = field(default_factory=list)  # steps whose snapshots can be deleted once this one is stored
    entries: dict[str, Any] | None = None  # schemas.RecordedEntries


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to continue from one step was written to `file`."""

    step: int
    file: str


@dataclass(frozen=True)
class Result:
    """Weights, buffers and hyperparameters of the best step so far were written to `file`."""

    step: int
    file: str


@dataclass(frozen=True)
class LogLine:
    """A line for the trial's log."""

    step: int
    text: str
    level: str = "info"


@dataclass(frozen=True)
class Ended:
    """Everything was sent and the runner exits: the trial is complete, or a `Stop` was received."""

    step: int
    stopped: bool
    why: str = ""  # the reason why the trial is complete


@dataclass(frozen=True)
class Failed:
    """The trial failed, and a retry would fail the same way. The fields are those of a problem document."""

    code: str
    detail: str
    context: dict[str, Any] = field(default_factory=dict)


# --- supervisor → runner --------------------------------------------------------------------------


@dataclass(frozen=True)
class Begin:
    """Run the trial in the work directory."""


@dataclass(frozen=True)
class Stop:
    """Write a checkpoint and exit.

    Attributes:
        evaluate: the user ends the training, so its last step is evaluated.
    """

    evaluate: bool = False


Message = Started | Stepped | Distributed | Snapshot | Checkpoint | Result | LogLine | Ended | Failed | Begin | Stop
_KINDS: dict[str, type[Message]] = {
    cls.__name__.lower(): cls
    for cls in (Started, Stepped, Distributed, Snapshot, Checkpoint, Result, LogLine, Ended, Failed, Begin, Stop)
}


def encode(message: Message) -> bytes:
    """The message as one line.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not have.
    """
    return json.dumps({"do": type(message).__name__.lower(), **asdict(message)}, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message in one line.

    Raises:
        ChannelBroken: the line is not a message.
    """
    try:
        fields = json.loads(line)
        return _KINDS[fields.pop("do")](**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChannelBroken(f"{line[:200]!r}: {error}") from error


def messages(stream: IO[bytes]) -> Iterator[Message]:
    """The messages in `stream` until its end. An incomplete last line is ignored."""
    for line in stream:
        if line.endswith(b"\n"):
            yield decode(line)


def write_file(directory: Path, name: str, data: bytes) -> str:
    """Write a file and return its name. The file gets its name only when it is complete.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    part = directory / f"{name}.part"
    try:
        part.write_bytes(data)
        part.replace(directory / name)
    except OSError:
        part.unlink(missing_ok=True)  # a useless file must not occupy scarce space
        raise
    return name


def check_name(name: str) -> None:
    """Check that `name` is a plain file name.

    Raises:
        ChannelBroken: it is a path, which could lead out of the work directory.
    """
    if Path(name).name != name:
        raise ChannelBroken(f"{name!r} is not the name of a file in the work directory")


def read_file(directory: Path, name: str, *, limit: int) -> bytes:
    """Read a file that a message names.

    Raises:
        ChannelBroken: it is not a plain file in `directory`, or it is larger than `limit` bytes. A runner executes
            untrusted programs, so the names that it sends must not lead out of the work directory.
    """
    check_name(name)
    try:
        with open(os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ChannelBroken(f"{name!r} cannot be read: {error}") from error
    if len(data) > limit:
        raise ChannelBroken(f"{name!r} is larger than a blob may be ({limit} bytes)")
    return data
