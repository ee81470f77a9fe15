"""The bytes of a checkpoint: its tensors by key and its counters, and the conversion of earlier formats.

A checkpoint is a safetensors file. These tensors can be read from it by name:

    params.<name>, buffers.<name>, hparams.<name>

The others are needed to continue exactly: the inner optimizer's state as vectors over all parameters (`inner.<name>`),
the outer optimizer's (`outer.<name>.<hyperparameter>`), what the response keeps (`memory.<name>`), the last
hypergradient (`previous.<name>`), and the training of each inactive fold (`folds.<k>.params.<name>`,
`folds.<k>.buffers.<name>` and so on). The counters are JSON in the header. They include the parameters' names in the
order of the vectors, because safetensors sorts its keys.
"""

from __future__ import annotations

import json
from typing import Any

import safetensors
import safetensors.torch

from nestor.errors import CheckpointFormatUnknown, StateInvalid
from nestor_engine.objective import Tensors
from nestor_engine.tensors.serialization import to_safetensors

FORMAT = 3  # format 2 had one vector `weights` and no names of parameters


def write(tensors: Tensors, counters: dict[str, Any]) -> bytes:
    """The bytes of a checkpoint; `counters` must be JSON-serializable."""
    return to_safetensors(tensors, {"nestor": json.dumps({"format": FORMAT, **counters})})


def read(data: bytes) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and counters of a checkpoint of format 3, or of format 2 converted to format 3.

    Raises:
        StateInvalid: these bytes are not a checkpoint.
        CheckpointFormatUnknown: the checkpoint has another format.
    """
    try:
        # Sorted by name, as they were when written: the order of the file differs, and sums over tensors would round
        # differently. Cloned into memory that torch allocates: products on unaligned memory round differently, too.
        tensors = {name: value.clone() for name, value in sorted(safetensors.torch.load(data).items())}
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        counters = json.loads(header["__metadata__"]["nestor"])
        _expect_format(version := counters.pop("format"))
    except (safetensors.SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise unreadable(error) from error
    return _from_format_2(tensors, counters) if version == 2 else (tensors, counters)


def unreadable(error: Exception) -> StateInvalid:
    """The error to raise when `error` occurred while a checkpoint was read."""
    return StateInvalid(reason=f"it cannot be read ({error})")


def prefixed(prefix: str, named: Tensors) -> Tensors:
    """The tensors under the keys `<prefix>.<name>`; `grouped` is the inverse."""
    return {f"{prefix}.{name}": value for name, value in named.items()}


def grouped(tensors: Tensors) -> dict[str, Tensors]:
    """First part of the key → rest of it → tensor."""
    groups: dict[str, Tensors] = {}
    for key, value in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    return groups


def _from_format_2(tensors: Tensors, counters: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Format 2 joined keys by slashes, and named the prefix of inactive folds `resting`."""
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
        remedy = "It was written by a newer version of Nestor: install that version on every worker and client."
        raise CheckpointFormatUnknown(version=version, known=FORMAT, remedy=remedy)
    if version < 2:
        remedy = "It was written by an early version of Nestor: use that version, or start a new trial."
        raise CheckpointFormatUnknown(version=version, known=FORMAT, remedy=remedy)
