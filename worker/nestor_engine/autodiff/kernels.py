"""Choose kernels of torch that have the derivatives that are needed, for the calling thread only."""

# pyright: reportUnknownMemberType=false
# (torch does not type its operators)

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch.overrides import TorchFunctionMode

from nestor_engine.tensors.function_modes import is_exporting, is_making_graph, reentrant

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class _Kernels(TorchFunctionMode):
    """Runs recurrent layers without cuDNN, whose convolutions are twice differentiable and stay.

    Not `torch.nn.attention.sdpa_kernel`, which chooses the kernels of all threads.
    """

    def __init__(self, *, attention: bool) -> None:
        super().__init__()
        self._attention = attention

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # A module calls torch.lstm, a program the operator aten.lstm.input.
        name = getattr(func, "__name__", "").partition(".")[0]
        if name in _RECURRENT and torch.cuda.is_available():
            # A trace needs the layer as matrix products: fused cells do not run on tensors without storage.
            decomposed = enable_python_dispatcher() if is_making_graph() else nullcontext()
            with without_cudnn(), decomposed:
                return func(*args, **kwargs)
        if self._attention and not is_exporting():  # a program chooses its kernels where it runs
            if name == "scaled_dot_product_attention":
                return _attention(*args, **kwargs)
            if (body := reentrant(func)) is not None:
                with self:
                    return body(*args, **kwargs)
        return func(*args, **kwargs)


def twice_differentiable() -> AbstractContextManager[object]:
    """Do not use kernels without a second derivative: fused attention, and cuDNN's recurrent layers."""
    return _Kernels(attention=True)


def native_recurrence() -> AbstractContextManager[object]:
    """Do not use cuDNN's recurrent layers, which have no second derivative, and in evaluation mode no first."""
    return _Kernels(attention=False) if torch.cuda.is_available() else nullcontext()


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` as matrix products, as torch computes it where no fused kernel fits."""
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(attn_mask.logical_not(), -torch.inf)
    return torch.ops.aten._scaled_dot_product_attention_math.default(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]


class _CuDNN:
    """Torch's switch for cuDNN, which applies to all threads: off while a thread needs it off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users, self._enabled = 0, True

    def disable(self) -> None:
        with self._lock:
            if not self._users:
                self._enabled, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
            self._users += 1

    def restore(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                torch.backends.cudnn.enabled = self._enabled


_cudnn = _CuDNN()


@contextmanager
def without_cudnn() -> Generator[None]:
    """Use torch's own kernels instead of cuDNN's.

    Torch has no such switch for one thread. Threads that run at the same time get torch's kernels, too: the same
    values up to rounding, which are not exact on a GPU anyway.
    """
    _cudnn.disable()
    try:
        yield
    finally:
        _cudnn.restore()
