"""The messages between supervisor and runner: one JSON object a line, one frozen dataclass a message.

Tensors are not sent here. They are files in the work directory, which are complete before a message names them.

A runner executes what users submit, so what it says is checked here: types, ranges, and lengths. It can lie about its
own trial, and do nothing else.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Lt, MaxLen
from pydantic import ConfigDict, Strict, TypeAdapter, ValidationError
from pydantic_core import from_json

LOST_PEER = 3  # the exit code of a process that ends because another process of its trial ended
MAX_LINE = 8 * 2**20  # bytes; `recorder.MOST_WITH_DISTRIBUTIONS` follows from it

Number = Annotated[int, Strict(), Ge(0), Lt(2**31)]  # of a step
Seconds = Annotated[float, Strict(), Ge(0), Lt(math.inf)]
Flag = Annotated[bool, Strict()]
FileName = Annotated[str, MaxLen(255)]
Text = Annotated[str, MaxLen(2**20)]
Level = Literal["info", "warning"]


class ChannelBroken(Exception):
    """The other side sent something that is not a message."""


# --- runner → supervisor --------------------------------------------------------------------------


class _Message:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Started(_Message):
    """The training begins."""

    hyperparameters: list[dict[str, Any]]  # schemas.HyperparameterInfo


@dataclass(frozen=True)
class Stepped(_Message):
    """One outer step was taken."""

    record: dict[str, Any]  # schemas.Step
    seconds: Seconds = 0.0  # wall time of training until now, over all attempts


@dataclass(frozen=True)
class Distributed(_Message):
    """How the hyperparameters of one step are distributed, of which not every step is asked."""

    record: dict[str, Any]  # schemas.Distributions


@dataclass(frozen=True)
class Snapshot(_Message):
    """The hyperparameters of one step were written to `file`."""

    step: Number
    file: FileName
    replaces: list[Number] = field(default_factory=list)  # steps whose snapshots can be deleted once this one is stored
    entries: dict[str, Any] | None = None  # schemas.RecordedEntries


@dataclass(frozen=True)
class Checkpoint(_Message):
    """Everything needed to continue from one step was written to `file`."""

    step: Number
    file: FileName


@dataclass(frozen=True)
class Result(_Message):
    """Weights, buffers and hyperparameters of the best step so far were written to `file`."""

    step: Number
    file: FileName


@dataclass(frozen=True)
class LogLine(_Message):
    """A line for the trial's log."""

    step: Number
    text: Text
    level: Level = "info"


@dataclass(frozen=True)
class Ended(_Message):
    """Everything was sent and the runner exits: the trial is complete, or a `Stop` was received."""

    step: Number
    stopped: Flag
    why: Text = ""  # the reason why the trial is complete


@dataclass(frozen=True)
class Failed(_Message):
    """The trial failed, and a retry would fail the same way. The fields are those of a problem document."""

    code: Text
    detail: Text
    context: dict[str, Any] = field(default_factory=dict)


# --- supervisor → runner --------------------------------------------------------------------------


@dataclass(frozen=True)
class Begin(_Message):
    """Run the trial in the work directory."""


@dataclass(frozen=True)
class Stop(_Message):
    """Write a checkpoint and exit.

    Attributes:
        evaluate: the user ends the training, so its last step is evaluated.
    """

    evaluate: Flag = False


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
        fields = from_json(line, allow_inf_nan=False)
        return _reader(_KINDS[fields.pop("do")]).validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ChannelBroken(f"{line[:200]!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChannelBroken(f"{line[:200]!r}: {error}"[:1_000]) from error


@cache
def _reader(kind: type[Message]) -> TypeAdapter[Message]:
    return TypeAdapter(kind)


def messages(stream: IO[bytes]) -> Iterator[Message]:
    """The messages in `stream` until its end. An incomplete last line is ignored.

    Raises:
        ChannelBroken: as `lines` and `decode`.
    """
    return map(decode, lines(stream))


def lines(stream: IO[bytes]) -> Iterator[bytes]:
    """The complete lines in `stream` until its end.

    Raises:
        ChannelBroken: one is longer than MAX_LINE.
    """
    while line := stream.readline(MAX_LINE):
        if line.endswith(b"\n"):
            yield line
        elif len(line) == MAX_LINE:
            raise ChannelBroken(f"a message is longer than {MAX_LINE} bytes")


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
