"""Find custom `autograd.Function`s and hooks on activations in a trace, so that they keep their backward.

Tracers see the operators of a forward pass only. Here each call becomes one node of the trace; `backwards.py` traces
what the node stands for.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# (so is torch's own way to put a Function into a trace, `torch._export.wrappers.allow_in_pre_dispatch_graph`)

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch import _ops as torch_ops
from torch.export import custom_ops
from torch.fx.experimental.proxy_tensor import track_tensor_tree
from torch.nn.modules._functions import BackwardHookFunction
from torch.overrides import TorchFunctionMode

from nestor.errors import NotExportable
from nestor_engine.program.failures import place_of_caller

# Torch's verifier accepts this function in a graph.
MARKER: Any = vars(custom_ops)["_call_custom_autograd_function_in_pre_dispatch"]
Hook = Callable[[Tensor], "Tensor | None"]
_patching = threading.Lock()
_traces: list[object] = []  # that run at present
_APPLY: Any = vars(torch.autograd.Function)["apply"].__func__
_ORIGINAL = FunctionType(_APPLY.__code__, _APPLY.__globals__, closure=_APPLY.__closure__)


@dataclass(frozen=True)
class Call:
    """One call that has a backward of its own.

    Attributes:
        name: the Function's class, or the hook, for messages.
        where: the module and the line of the user's code, as ` (in …, file, line …)`, or empty.
        cls: has the static methods `forward` and `backward` of a Function.
        args: tensors without storage, whose sizes may be symbols, and constants.
        results: what it returned, as `args`.
        returns_tuple: whether it returned a tuple, also of one.
    """

    name: str
    where: str
    cls: Any
    args: tuple[Any, ...]
    results: tuple[Any, ...]
    returns_tuple: bool


@dataclass
class Recorder:
    """Collects the calls of one trace by the key that their node has as its first argument."""

    calls: dict[str, Call] = field(default_factory=dict[str, Call])
    _hooks: dict[fx.Node, list[Hook]] = field(default_factory=dict["fx.Node", "list[Hook]"])

    def function(self, cls: Any, args: tuple[Any, ...], original: Callable[..., Any]) -> Any:
        """Call a Function, as one node."""
        mode = _proxy_mode()
        if mode is None or cls is BackwardHookFunction:
            return original(*args)
        # Below the dispatch key of the tracer, which therefore does not see the operators of the forward.
        key = torch._C.DispatchKey.PreDispatch
        include = torch._C._dispatch_tls_local_include_set().remove(key)
        exclude = torch._C._dispatch_tls_local_exclude_set() | torch._C.DispatchKeySet(key)
        with torch._C._ForceDispatchKeyGuard(include, exclude):
            returned = original(*args)
        self._mark(mode.tracer, cls.__qualname__, cls, args, returned)
        return returned

    def hook(self, tensor: Tensor, hook: Hook) -> bool:
        """Put a node for a hook behind `tensor`; False if the trace cannot: it has read the tensor already."""
        mode = _proxy_mode()
        node = None if mode is None else _node_of(mode.tracer, tensor)
        if mode is None or node is None or node.users:
            return False
        if node in self._hooks:
            self._hooks[node].append(hook)  # one node for all, because torch calls hooks in order
        else:
            hooks = [hook]
            self._mark(mode.tracer, f"the hook {_name(hook)}", _hooked(hooks), (tensor,), tensor)
            if (marked := _node_of(mode.tracer, tensor)) is not None:
                self._hooks[marked] = hooks
        return True

    def _mark(self, tracer: Any, name: str, cls: Any, args: tuple[Any, ...], returned: Any) -> None:
        key = str(len(self.calls))
        # Only tensors: a graph cannot hold every constant that a Function may take.
        proxies = [tracer.unwrap_proxy(arg) for arg in args if isinstance(arg, Tensor)]
        proxy = tracer.create_proxy("call_function", MARKER, (key, *proxies), {})
        track_tensor_tree(returned, proxy, constant=None, tracer=tracer)
        results: tuple[Any, ...] = cast("tuple[Any, ...]", returned) if isinstance(returned, tuple) else (returned,)
        self.calls[key] = Call(name, place_of_caller(), cls, args, results, isinstance(returned, tuple))


class Hooks(TorchFunctionMode):
    """Gives the hooks that a function registers on its tensors to a recorder.

    Raises:
        NotExportable: a hook sees more than what follows it in the trace.
    """

    def __init__(self, recorder: Recorder, function: str) -> None:
        super().__init__()
        self._recorder, self._function = recorder, function

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.register_hook:
            tensor, hook = cast("tuple[Tensor, Hook]", (*args, *(kwargs or {}).values()))
            if not self._recorder.hook(tensor, hook):
                raise NotExportable(
                    function=self._function,
                    where=place_of_caller(),
                    reason=f"the hook {_name(hook)} is registered after its tensor was used.",
                    remedy="Call register_hook right behind the line that computes the tensor.",
                )
        return func(*args, **(kwargs or {}))


_recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@contextlib.contextmanager
def recording_functions() -> Generator[Recorder]:
    """Record the calls of custom Functions that this thread's trace makes."""
    recorder = Recorder()
    token = _recorder.set(recorder)
    try:
        with _patched():
            yield recorder
    finally:
        _recorder.reset(token)


def _hooked(hooks: list[Hook]) -> Any:
    """The identity, whose backward calls the hooks, with the methods of a Function."""

    class Hooked:
        @staticmethod
        def forward(ctx: Any, tensor: Tensor) -> Tensor:
            return tensor

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            for hook in hooks:
                changed = hook(grad)
                grad = grad if changed is None else changed
            return grad

    return Hooked


@contextlib.contextmanager
def _patched() -> Generator[None]:
    """Let `Function.apply` ask the recorder of the calling thread while any trace runs.

    Its code is replaced, not the attribute: `sign = Sign.apply` at the top of a module keeps the function itself.
    """
    with _patching:
        _traces.append(object())
        _APPLY.__code__ = _Recording.apply.__code__
    try:
        yield
    finally:
        with _patching:
            _traces.pop()
            if not _traces:
                _APPLY.__code__ = _ORIGINAL.__code__


class _Recording:
    def apply(self: Any, *args: Any, **kwargs: Any) -> Any:
        _ = __class__  # torch's code has this free variable, too, and the new one must have the same
        from nestor_engine.program.functions import apply_recorded  # the globals are those of torch

        return apply_recorded(self, args, kwargs)


def apply_recorded(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`cls.apply`, as one node of the trace if this thread runs one."""
    original: Callable[..., Any] = partial(_ORIGINAL, cls)
    recorder = _recorder.get()
    if recorder is None:
        return original(*args, **kwargs)
    if cls.setup_context is not torch.autograd.Function.setup_context:  # torch fills in defaults of this style only
        bound = inspect.signature(cls.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        args = bound.args
    return recorder.function(cls, args, original)


def _name(hook: object) -> str:
    return str(getattr(hook, "__qualname__", type(hook).__name__))


def _proxy_mode() -> Any:
    """The tracer's mode; None while nothing is traced."""
    operators: Any = torch_ops
    return operators._get_dispatch_mode_pre_dispatch(torch._C._TorchDispatchModeKey.PROXY)


def _node_of(tracer: Any, tensor: Tensor) -> fx.Node | None:
    proxy = tracer.unwrap_proxy(tensor)
    return proxy.node if isinstance(proxy, fx.Proxy) else None
