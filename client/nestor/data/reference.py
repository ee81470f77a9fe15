"""A reference to a file of examples. Pure: nothing is opened, and torch is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, cast
from urllib.parse import unquote

from nestor.errors import ArgumentInvalid, ReferenceInvalid, shown

Format = Literal["safetensors", "npy", "parquet"]
FORMATS: dict[str, Format] = {".safetensors": "safetensors", ".npy": "npy", ".parquet": "parquet"}
MAX_URI = 2_048  # characters


@dataclass(frozen=True)
class Ref:
    """A file of examples, which is read batch by batch. Make it with `nestor.data.ref`.

    Attributes:
        uri: file:///path or s3://bucket/key.
        columns: the columns to read; None: all of the file.

    Raises:
        ReferenceInvalid: the URI has another scheme, leads through "..", or has another extension.
    """

    uri: str
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        reason = _mistake(self.uri)
        if reason is not None:
            raise ReferenceInvalid(uri=shown(self.uri, 200), reason=reason)

    @property
    def scheme(self) -> str:
        """ "file" or "s3"."""
        return self.uri.partition("://")[0]

    @property
    def path(self) -> str:
        """Of a file: its absolute path. Of an object: its bucket, a slash, and its key."""
        rest = self.uri.partition("://")[2]
        return unquote(rest).removeprefix("localhost") if self.scheme == "file" else rest

    @property
    def format(self) -> Format:
        """By the extension of the file's name."""
        return FORMATS[PurePosixPath(self.path).suffix.lower()]


def ref(uri: str, *, columns: str | Sequence[str] | None = None) -> Ref:
    """Data that stay where they are: a file that workers read batch by batch, and that is never uploaded.

    A safetensors or Parquet file may be a whole split; its tensors or columns are the columns of the split. An .npy
    file is one column, and goes into a dict or a tuple of columns. There, any reference to a single column may stand
    next to tensors.

    Args:
        uri: file:///path/train.safetensors or s3://bucket/train.npy; with the extension .safetensors, .npy or
            .parquet. This process and the workers must be able to read it; the operator of a worker allows directories
            and buckets with NESTOR_DATA_ROOTS.
        columns: which columns of the file to read; all by default.

    Raises:
        ReferenceInvalid: the URI has another scheme, leads through "..", or has another extension.
    """
    return Ref(uri, _names(columns))


def _names(columns: object) -> tuple[str, ...] | None:
    if columns is None:
        return None
    names: list[Any] = [columns] if isinstance(columns, str) else []
    if isinstance(columns, list | tuple):
        names = list(cast("Sequence[Any]", columns))
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ArgumentInvalid(
            owner="nestor.data.ref",
            argument="columns",
            given=shown(cast(object, columns)),
            expected="the name of a column, or a list of different names",
        )
    return tuple(names)


def _mistake(uri: Any) -> str | None:
    """Why `uri` cannot be used; None if it can."""
    if not isinstance(uri, str):
        return f"it is a {type(uri).__name__}, not a string"
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return "it has no scheme"
    if scheme not in ("file", "s3"):
        return f"the scheme {shown(scheme, 20)} is not supported"
    if len(uri) > MAX_URI or not uri.isprintable():
        return f"it is longer than {MAX_URI:,} characters, or holds characters that cannot be printed"
    path = rest
    if scheme == "file":
        host, slash, _ = rest.partition("/")
        if host not in ("", "localhost"):
            return f"{shown(host, 40)} stands in the place of a host; an absolute path begins with a third slash"
        path = unquote(rest).removeprefix("localhost")
        if not slash or "\0" in path:
            return "it names no file"
    elif not all(rest.partition("/")):
        return "it names no object; write s3://bucket/key"
    if ".." in path.split("/"):
        return "it leads through '..'"
    if PurePosixPath(path).suffix.lower() not in FORMATS:
        return f"its extension must be one of {', '.join(FORMATS)}"
    return None
