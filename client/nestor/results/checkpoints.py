"""The weights of a checkpoint as a file of their own, without torch."""

from __future__ import annotations

from nestor.errors import StateInvalid
from nestor.program_format.safetensors_header import METADATA, Header, Malformed, Tensor, described, written

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
    named = [tensor for tensor in sorted(tensors, key=lambda tensor: tensor.begin) if tensor.name.startswith(PREFIXES)]
    entries = described((_name_in_model(tensor), tensor.dtype, tensor.shape, tensor.nbytes) for tensor in named)
    parts = (checkpoint[tensor.begin : tensor.end] for tensor in named)
    return b"".join((written({METADATA: {"format": "pt"}} | entries), *parts))


def _name_in_model(tensor: Tensor) -> str:
    return tensor.name.partition(".")[2]
