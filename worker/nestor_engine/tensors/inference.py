"""Tensors that were made under torch.inference_mode(), as tensors that can be trained on."""

from __future__ import annotations

from torch import Tensor


def detached(tensor: Tensor) -> Tensor:
    """`tensor` without its history; a copy if autograd may not save it, which is fixed when it is made."""
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()
