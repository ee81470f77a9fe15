"""Named tensors as bytes in the safetensors format, from any device and layout."""

from __future__ import annotations

import safetensors.torch
import torch

from nestor_engine.objective import Tensors


def to_safetensors(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """The tensors as safetensors; `metadata` goes into the header."""
    # Cloned, because safetensors refuses tensors that share memory, such as an input that is its own target.
    apart = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    return safetensors.torch.save(apart, metadata=metadata)
