"""A checkpoint's tensors by key, and its counters, to bytes and back; and how earlier formats become the present one.

A checkpoint is a safetensors file. Anyone can read these from it by name:

    params.<name>, buffers.<name>, hparams.<name>

The rest serves to continue exactly: the inner optimizer's state as vectors over all parameters (`inner.<name>`), the
outer optimizer's (`outer.<name>.<hyperparameter>`), what the response keeps (`memory.<name>`), the last hypergradient
(`previous.<name>`), and the training of each inactive fold (`folds.<k>.params.<name>`, `folds.<k>.buffers.<name>` and
so on). The counters are JSON in the header, with the parameters' names in the order of the vectors: safetensors sorts.
"""

from __future__ import annotations

import json
from typing import Any

import safetensors
import safetensors.torch

from nestor_engine.errors import CheckpointFormatUnknown, StateInvalid
from nestor_engine.objective import Tensors
from nestor_engine.tensors.serialization import to_safetensors

FORMAT = 3  # 2 had no names of parameters, and one vector `weights`


def write(tensors: Tensors, counters: dict[str, Any]) -> bytes:
    return to_safetensors(tensors, {"nestor": json.dumps({"format": FORMAT, **counters})})


def read(data: bytes) -> tuple[Tensors, dict[str, Any]]:
    """What `write` was given, here or in a version that wrote format 2, which is read as format 3.

    Raises:
        StateInvalid: these bytes are no checkpoint.
        CheckpointFormatUnknown: they are one of another format.
    """
    try:
        # In the order of their names, as they were: the file has its own, and sums over tensors would round
        # differently. And copied to where torch allocates, for products do so on memory that is not aligned.
        tensors = {name: value.clone() for name, value in sorted(safetensors.torch.load(data).items())}
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        counters = json.loads(header["__metadata__"]["nestor"])
        _expect_format(version := counters.pop("format"))
    except (safetensors.SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise unreadable(error) from error
    return _from_format_2(tensors, counters) if version == 2 else (tensors, counters)


def unreadable(error: Exception) -> StateInvalid:
    return StateInvalid(reason=f"it cannot be read ({error})")


def prefixed(prefix: str, named: Tensors) -> Tensors:
    return {f"{prefix}.{name}": value for name, value in named.items()}


def grouped(tensors: Tensors) -> dict[str, Tensors]:
    """First part of the key → rest of it → tensor."""
    groups: dict[str, Tensors] = {}
    for key, value in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    return groups


def _from_format_2(tensors: Tensors, counters: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Format 2 joined keys by slashes, and said `resting` for `folds`."""
    depths = {"resting": 3, "outer": 2}
    joined = {key.replace("/", ".", depths.get(key.split("/")[0], 1)): value for key, value in tensors.items()}
    renamed = {
        (key.replace("resting.", "folds.", 1) if key.startswith("resting.") else key): value
        for key, value in joined.items()
    }
    folds = counters.pop("resting", {})
    return renamed, {**counters, "params": None, "folds": folds}


def _expect_format(version: int) -> None:
    if version > FORMAT:
        remedy = "It was written by a newer version of Nestor: install that version here, on every worker and client."
        raise CheckpointFormatUnknown(version=version, known=FORMAT, remedy=remedy)
    if version < 2:
        remedy = "It was written by an early version of Nestor: go on with that version, or begin a new trial."
        raise CheckpointFormatUnknown(version=version, known=FORMAT, remedy=remedy)
