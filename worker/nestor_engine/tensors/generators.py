"""The generators that the calling thread draws from: torch's default ones, or generators of its own.

Torch has one default generator for each device, which all threads of a process share. A runner owns its process, so it
draws from them. A trial in the user's process must not: its draws would depend on those of other threads, and change
them.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false, reportUnknownMemberType=false
# (torch has no public names for the dispatch modes that are active, and does not type its operators)

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any, cast

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nestor_engine.tensors.function_modes import is_tracing, reentrant
from nestor_engine.tensors.random_operators import (
    device_of,
    drawing_from,
    dropout,
    fast_dropout,
    is_composite,
    may_draw,
    with_generator,
)

_local = threading.local()  # .own: the innermost OwnGenerators of the thread
_swapping = threading.RLock()


def generators(device: torch.device) -> list[torch.Generator]:
    """The calling thread's generators for a problem on `device`: the CPU's, and the device's if it is a GPU."""
    own = _current()
    devices = [torch.device("cpu")] + ([device] if device.type == "cuda" else [])
    return [_default(one) if own is None else own.generator(one) for one in devices]


class OwnGenerators(TorchFunctionMode):
    """In this context, the thread's draws come from generators that nobody else uses.

    They are what torch's default generators would be with the same seed. It covers every random operator of torch,
    `torch.manual_seed`, `fork_rng` and the states that checkpointing saves. Operators of other libraries, and fused
    attention with dropout on a GPU, take no generator. For these, torch's default generator holds the thread's state
    while they run; only there can another thread's draw come between.

    A function mode costs about a microsecond for each call of torch. Watching every operator costs several, so this is
    done only in functions that may draw, and not for the most frequent one, dropout.
    """

    def __init__(self) -> None:
        super().__init__()
        self._generators: dict[torch.device, torch.Generator] = {}
        self._operators = _RandomOperators(self)
        self._outer: list[OwnGenerators | None] = []

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator for `device`."""
        device = _indexed(device)
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        return self._generators[device]

    def __enter__(self) -> OwnGenerators:
        _state_functions.follow_threads()
        self._outer.append(getattr(_local, "own", None))
        _local.own = self
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        _local.own = self._outer.pop()
        _state_functions.release()

    def swapped(self, device: torch.device, func: Any, args: Any, kwargs: Any) -> Any:
        """`func(*args, **kwargs)` while torch's default generators hold the states of these generators."""
        devices = [torch.device("cpu")] + ([device] if device.type == "cuda" else [])
        pairs = [(_default(one), self.generator(one)) for one in devices]
        with _swapping:
            before = [default.get_state() for default, _ in pairs]
            for default, own in pairs:
                default.set_state(own.get_state())
            try:
                return func(*args, **kwargs)
            finally:
                for (default, own), state in zip(pairs, before, strict=True):
                    own.set_state(default.get_state())
                    default.set_state(state)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        body, draws = _inside(func)
        if (body is None and not draws) or is_tracing():
            return func(*args, **kwargs)
        if any(kwargs.get("generator") is default for default in (torch.default_generator, *_cuda_defaults())):
            kwargs = {**kwargs, "generator": None}
        if func in (F.dropout, torch.dropout) and (fast := fast_dropout(self.generator, *args, **kwargs)) is not None:
            return fast
        with self if body is not None else self._operators:
            return (body or func)(*args, **kwargs)


@lru_cache(maxsize=4096)
def _inside(func: Any) -> tuple[Any, bool]:
    """`reentrant(func)`, and whether `func` may draw: one look-up for each call of torch."""
    return reentrant(func), may_draw(func)


class _RandomOperators(TorchDispatchMode):
    """Gives random operators the generators of `own`."""

    def __init__(self, own: OwnGenerators) -> None:
        super().__init__()
        self._own = own

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        foreign = func.namespace != "aten"
        if (not foreign and torch.Tag.nondeterministic_seeded not in func.tags) or is_tracing():
            return func(*args, **kwargs)
        device = device_of(args, kwargs)
        if device.type not in ("cpu", "cuda"):
            return func(*args, **kwargs)
        drawing = with_generator(func)
        if drawing is not None:
            args, kwargs = drawing_from(self._own.generator(device), drawing, args, kwargs)
            return drawing(*args, **kwargs)
        if func is torch.ops.aten.native_dropout.default:
            return dropout(self._own.generator(device), *args, **kwargs)
        if is_composite(func):  # under inference mode, nothing was decomposed yet
            with self:
                return func.decompose(*args, **kwargs)
        if foreign or (device.type == "cuda" and kwargs.get("dropout_p", 1.0)):
            return self._own.swapped(device, func, args, kwargs)
        return func(*args, **kwargs)


# --- the state functions of torch ---------------------------------------------------------------------


class _ThreadGenerator:
    """Stands for a default generator: the attributes are those of the calling thread's generator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        own = _current()
        return getattr(_default(self._device) if own is None else own.generator(self._device), name)


class _StateFunctions:
    """`torch.manual_seed`, `get_rng_state`, `fork_rng` and so on, which read two names of torch's modules.

    While a thread has generators of its own, the names stand for the generators of the calling thread. For other
    threads they stay the default ones.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self.cuda: tuple[torch.Generator, ...] = ()  # the real ones, while the names stand for others

    def follow_threads(self) -> None:
        with self._lock:
            self._users += 1
            torch.random.default_generator = cast("torch.Generator", _ThreadGenerator(torch.device("cpu")))
            if not self.cuda and torch.cuda.is_initialized():
                self.cuda = torch.cuda.default_generators
                stand_ins = (_ThreadGenerator(torch.device("cuda", index)) for index in range(len(self.cuda)))
                torch.cuda.default_generators = cast("tuple[torch.Generator, ...]", tuple(stand_ins))

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                torch.random.default_generator = torch.default_generator
                if self.cuda:
                    torch.cuda.default_generators, self.cuda = self.cuda, ()


_state_functions = _StateFunctions()


def _current() -> OwnGenerators | None:
    """The thread's own generators. A device's autograd thread has the modes of the thread that it works for."""
    own = getattr(_local, "own", None)
    if own is not None:
        return own
    modes = reversed(torch.overrides._get_current_function_mode_stack())
    return next((mode for mode in modes if isinstance(mode, OwnGenerators)), None)


def _cuda_defaults() -> tuple[torch.Generator, ...]:
    return _state_functions.cuda or torch.cuda.default_generators


def _default(device: torch.device) -> torch.Generator:
    return torch.default_generator if device.type == "cpu" else _cuda_defaults()[_indexed(device).index]


def _indexed(device: torch.device) -> torch.device:
    index = cast("int | None", device.index)  # which its annotation leaves out
    if device.type != "cuda":
        return device if index is None else torch.device(device.type)
    return torch.device("cuda", torch.cuda.current_device()) if index is None else device
