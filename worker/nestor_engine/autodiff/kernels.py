"""Choose kernels of torch that have the derivatives that are needed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextmanager
def twice_differentiable() -> Generator[None]:
    """Do not use kernels without a second derivative: fused attention, and cuDNN's recurrent layers."""
    with sdpa_kernel(SDPBackend.MATH), native_recurrence():
        yield


def native_recurrence() -> AbstractContextManager[object]:
    """Do not use cuDNN's recurrent layers, which have no second derivative, and in evaluation mode no first."""
    return _NativeRecurrence() if torch.cuda.is_available() else nullcontext()


class _NativeRecurrence(TorchFunctionMode):
    """Runs recurrent layers without cuDNN; its convolutions are twice differentiable and stay."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A module calls torch.lstm, a program the operator aten.lstm.input.
        if getattr(func, "__name__", "").partition(".")[0] not in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            return func(*args, **(kwargs or {}))
        # A trace needs the layer as matrix products: fused cells do not run on tensors without storage.
        decomposed = enable_python_dispatcher() if get_proxy_mode() is not None else nullcontext()
        with without_cudnn(), decomposed:
            return func(*args, **(kwargs or {}))


@contextmanager
def without_cudnn() -> Generator[None]:
    """Use torch's own kernels instead of cuDNN's."""
    enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled
