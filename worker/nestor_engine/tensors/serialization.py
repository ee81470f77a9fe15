"""Named tensors as bytes: safetensors, wherever they lie in memory."""

from __future__ import annotations

import safetensors.torch
import torch

from nestor_engine.objective import Tensors


def to_safetensors(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """The tensors as safetensors; `metadata` travels in the header."""
    # Cloned: the format refuses tensors that share memory, such as an input that is its own target.
    apart = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    return safetensors.torch.save(apart, metadata=metadata)
