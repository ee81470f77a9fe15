"""What function modes of torch need: whether the thread traces, and functions that let a mode see what they call."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# (torch has no public names for the dispatch modes that are active)

from __future__ import annotations

from functools import lru_cache
from types import FunctionType
from typing import Any

import torch


def is_tracing() -> bool:
    """Whether the thread traces: no numbers are drawn, and a graph holds no generator."""
    keys = torch._C._TorchDispatchModeKey
    modes = (torch._C._get_dispatch_mode(key) for key in (keys.PROXY, keys.FAKE, keys.FUNCTIONAL))
    return is_exporting() or any(mode is not None for mode in modes)


def is_making_graph() -> bool:
    """Whether the thread records operators; `get_proxy_mode` of torch is also true where another thread exports."""
    return is_exporting() or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def is_exporting() -> bool:
    """Whether the thread traces for torch.export, which keeps composite operators such as attention whole."""
    return torch._C._dispatch_tls_is_dispatch_key_included(torch._C.DispatchKey.PreDispatch)


@lru_cache(maxsize=4096)
def reentrant(func: Any) -> Any:
    """For a function that runs a backward pass, attention or a check: the same function, which no mode intercepts.

    A function mode is inactive while it handles a function, so it would not see what runs inside.
    """
    if not isinstance(func, FunctionType) or func.__name__ not in _WATCHED_INSIDE:
        return None
    names = [name for name in func.__code__.co_names if name.startswith("has_torch_function")]
    if not names or not func.__module__.startswith("torch."):
        return None
    known = {**func.__globals__, **dict.fromkeys(names, _never)}
    body = FunctionType(func.__code__, known, func.__name__, func.__defaults__, func.__closure__)
    body.__kwdefaults__ = func.__kwdefaults__
    return body


_WATCHED_INSIDE = frozenset({"grad", "backward", "multi_head_attention_forward", "gaussian_nll_loss"})


def _never(*_: object) -> bool:
    return False
