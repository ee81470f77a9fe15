"""The weights of a checkpoint as a file of their own, without torch."""

from __future__ import annotations

import json
from typing import Any

from nestor.errors import StateInvalid
from nestor.program_format.safetensors_header import Header, Malformed

PREFIXES = ("params.", "buffers.")  # nestor_engine.training.state.checkpoint has the format


def weights_of(checkpoint: bytes) -> bytes | None:
    """The trained weights and buffers of a checkpoint, by their names in the model, as safetensors.

    The bytes of the tensors are copied as they are, so every dtype is kept. None for a checkpoint of format 2, which
    does not name the weights.

    Raises:
        StateInvalid: these bytes are not a checkpoint.
    """
    try:
        tensors = Header.parse(checkpoint, len(checkpoint)).tensors.values()
    except Malformed as error:
        raise StateInvalid(reason=f"it cannot be read ({error})") from error
    if not any(tensor.name.startswith(PREFIXES[0]) for tensor in tensors):
        return None
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    at = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.begin):
        prefix = next((one for one in PREFIXES if tensor.name.startswith(one)), None)
        if prefix is None:
            continue
        size = tensor.end - tensor.begin
        offsets = {"data_offsets": [at, at + size]}
        entries[tensor.name.removeprefix(prefix)] = {"dtype": tensor.dtype, "shape": list(tensor.shape), **offsets}
        parts.append(checkpoint[tensor.begin : tensor.end])
        at += size
    header = json.dumps(entries, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of eight bytes
    return b"".join((len(header).to_bytes(8, "little"), header, *parts))
