"""Let one thread of the process trace at a time, and hide from the other threads that it does.

Torch's tracers keep their state in module globals, and patch `nn.Module` for all threads while they run.
"""

# pyright: reportPrivateUsage=false, reportMissingTypeStubs=false
# (torch has no public names for this)

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.fx import _symbolic_trace
from torch.fx.experimental import proxy_tensor

_lock = threading.RLock()


@contextmanager
def tracing() -> Generator[None]:
    """Trace in this context only; other threads that want to trace wait.

    What stays visible in other threads for that time: `torch.fx`'s patched `nn.Module.__call__`, which there calls
    the original, and functions that were imported by name from `torch.compiler` before.
    """
    with _lock, ExitStack() as stack:
        stack.enter_context(_replaced(proxy_tensor, "_ModuleStackTracer", _tracer_of_this_thread))
        stack.enter_context(_replaced(torch._ops, "mode_stack_state_for_pre_dispatch", _empty_in_other_threads))
        # Optimizers, attention masks and compiled functions take other paths while torch traces.
        for name in ("is_compiling", "is_exporting"):
            stack.enter_context(_replaced(torch.compiler, name, _true_in_this_thread_only))
        yield


def traced_here() -> None:
    """To be called by the traced function: torch's flag that a trace is made is then set for this thread only.

    A compiled function refuses to run where the flag is set.
    """
    if _symbolic_trace._is_fx_tracing_flag is True:
        _symbolic_trace._is_fx_tracing_flag = _InThisThread()  # the tracer resets it


class _InThisThread:
    """True in the thread that made it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def __bool__(self) -> bool:
        return threading.get_ident() == self._thread


@contextmanager
def _replaced(module: ModuleType, name: str, replacement: Callable[[Any], Any]) -> Generator[None]:
    original = getattr(module, name)
    setattr(module, name, replacement(original))
    try:
        yield
    finally:
        setattr(module, name, original)


def _true_in_this_thread_only(predicate: Callable[[], bool]) -> Callable[[], bool]:
    here = _InThisThread()
    return lambda: bool(here) and predicate()


def _empty_in_other_threads(modes: Callable[[], Any]) -> Callable[[], Any]:
    """The modes of torch.export. Where another thread saw them, it would take itself to be exporting."""
    here, empty = _InThisThread(), torch._ops._ModeStackStateForPreDispatch()
    return lambda: modes() if here else empty


def _tracer_of_this_thread(tracer: type[proxy_tensor._ModuleStackTracer]) -> type[proxy_tensor._ModuleStackTracer]:
    """The tracer of torch.export, which would record the modules of other threads."""

    class Tracer(tracer):
        def __init__(self, *args: Any) -> None:
            self._thread = threading.get_ident()
            super().__init__(*args)

        def getattr(self, attr: str, attr_val: object, parameter_proxy_cache: Any) -> object:
            if threading.get_ident() != self._thread:
                return attr_val
            return super().getattr(attr, attr_val, parameter_proxy_cache)

        def call_module(self, m: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return forward(*args, **kwargs)
            return super().call_module(m, forward, args, kwargs)

    return Tracer
