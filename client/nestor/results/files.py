"""Hyperparameters as safetensors files that keep the transforms beside the values."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from nestor.errors import ArgumentInvalid, FileUnusable, shown
from nestor.lifecycle import TRANSFORMS_KEY, snapshot_metadata
from nestor.program_format.safetensors_header import METADATA, written

PREFIX = 8  # bytes of the header's length


def with_transforms(data: bytes, transforms: Mapping[str, str]) -> bytes:
    """The safetensors file `data` with the transforms in its metadata. Tensors of all dtypes keep their bytes."""
    header, tensors = _split(data)
    header[METADATA] = header.get(METADATA, {}) | snapshot_metadata(transforms)
    return written(header) + tensors


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a safetensors file.

    Raises:
        ArgumentInvalid: the name has another extension.
        FileUnusable: it cannot be written.
    """
    target = _path("hparams.save", path)
    if target.suffix != ".safetensors":
        raise _no_path("hparams.save", path)
    try:
        target.write_bytes(data)
    except OSError as error:
        raise _unusable(target, "written", error.strerror or str(error)) from error


def read(path: str | os.PathLike[str]) -> tuple[bytes, dict[str, str]]:
    """A safetensors file of hyperparameters, and their transforms.

    Raises:
        FileUnusable: the file cannot be read, or something else wrote it.
    """
    source = _path("nestor.load_values", path)
    try:
        data = source.read_bytes()
        header, _ = _split(data)
        return data, json.loads(header[METADATA][TRANSFORMS_KEY])
    except OSError as error:
        raise _unusable(source, "read", error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(source, "read", "it does not contain the transforms of hyperparameters") from error


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    end = PREFIX + int.from_bytes(data[:PREFIX], "little")
    return json.loads(data[PREFIX:end]), data[end:]


def _path(owner: str, path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise _no_path(owner, path)
    return Path(cast("str | os.PathLike[str]", path))


def _no_path(owner: str, path: object) -> ArgumentInvalid:
    expected = "a file name that ends in .safetensors"
    return ArgumentInvalid(owner=owner, argument="path", given=shown(path), expected=expected)


def _unusable(path: Path, done: str, reason: str) -> FileUnusable:
    name = str(path)
    return FileUnusable(file=name if len(name) < 500 else f"{name[:100]}…{name[-100:]}", done=done, reason=reason)
