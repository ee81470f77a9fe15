"""Translate failures of torch.export into sentences about the author's code, with the usual remedy."""

from __future__ import annotations

import linecache
import os
import re
import traceback
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, cast

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from nestor.errors import NotExportable

_OURS = tuple(os.path.dirname(os.path.abspath(path)) + os.sep for path in (torch.__file__, os.path.dirname(__file__)))

_BATCH_SIZE = (
    "it works for one batch size only, or branches on the batch size.",
    "Take sizes from the tensor, as in x.shape[0] (not len(x)) and x.flatten(1), and do not branch on the batch size.",
)
_PACKED = (
    "it packs sequences, whose shapes depend on the data.",
    "Give the recurrent module the padded sequences, take the last step of each with gather, and mask the loss.",
)
_AVERAGED = (
    "BatchNorm(momentum=None) averages over all batches, with a factor that depends on their number.",
    "Give it a momentum, such as 0.1.",
)
# A pattern in the message → (reason, remedy); the first match counts.
_KNOWN: tuple[tuple[str, tuple[str, str]], ...] = (
    ("specialized it to be a constant|generated guard|Constraints violated", _BATCH_SIZE),
    (
        "data-dependent|DataDependent|dynamic output shape|DynamicOutputShape|unbacked",
        (
            "its control flow or a shape depends on the values of a tensor.",
            "Use torch.where in place of if, and masks in place of selections; leave out .item() and .tolist().",
        ),
    ),
    (
        r"\.numpy\(\)|numpy|__array__",
        ("it leaves torch for NumPy.", "Use the torch function of the same name, so that the graph can hold it."),
    ),
    (
        r"\.tolist|\.item\(\)|_local_scalar_dense",
        ("it turns a tensor into a Python number.", "Keep it a tensor: leave out .item(), .tolist() and float()."),
    ),
    ("packed|PackedSequence", _PACKED),
)

NO_SUCH_OPERATOR = {
    "": (
        "it uses {name}, which programs do not support.",
        "Write that part with ordinary torch functions, or run the problem in this process (server=None).",
    ),
    "aten.item.default": (
        "it turns a tensor into a Python number, which stops the gradient.",
        "Keep it a tensor: leave out .item(), .tolist(), float() and int().",
    ),
    "functorch": (
        "it uses torch.func ({name}).",
        "Write out batch dimensions, for example with torch.einsum, and compute no derivatives inside.",
    ),
    "aten.nonzero.default": (
        "a shape depends on the values of a tensor.",
        "Use torch.where with three arguments, or multiply by a mask.",
    ),
}


class Watch(TorchFunctionMode):
    """Records where len() was called on a tensor: it fixes the size, and no error message says where."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "__len__":
            frame = next((f for f in _callers() if not _is_ours(f.f_code.co_filename)), None)
            if frame is not None:
                self.lengths.append(_line(frame.f_code.co_filename, frame.f_lineno))
        return func(*args, **(kwargs or {}))


def explain(function: str, error: Exception, watch: Watch) -> NotExportable:
    """The error to raise when tracing `function` raised `error`: with place, reason and remedy."""
    text = f"{type(error).__name__}: {error}"
    first_line = str(error).strip().split("\n")[0]
    reason, remedy = _by_frames(error.__traceback__) or next(
        (advice for pattern, advice in _KNOWN if re.search(pattern, text)),
        (
            f"torch says: {first_line}" + ("" if first_line.endswith(".") else "."),
            "Change that part of the model or the loss.",
        ),
    )
    where = place_of_error(error.__traceback__)
    if (reason, remedy) == _BATCH_SIZE:
        # torch finds this after the function has run, so the traceback does not contain the line.
        where = f" ({watch.lengths[0]})" if watch.lengths else ""
    return NotExportable(function=function, where=where, reason=reason, remedy=remedy)


def _by_frames(trace: TracebackType | None) -> tuple[str, str] | None:
    """Reason and remedy of modules of torch whose failure is named after one of their operators; None for others."""
    for frame, _ in traceback.walk_tb(trace):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:  # pyright: ignore[reportPrivateUsage]
            return _AVERAGED
        if any(isinstance(value, nn.utils.rnn.PackedSequence) for value in frame.f_locals.values()):
            return _PACKED
    return None


def place_of(node: fx.Node | None) -> str:
    """The module and the line that a traced node comes from, as far as the tracer recorded them."""
    if node is None:
        return ""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    modules = [path for path, _ in stack.values() if path]
    parts = [f"in {modules[-1]!r}"] if modules else []
    for file, line in reversed(re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")):
        if not _is_ours(file):
            parts.append(_line(file, int(line)))
            break
    return f" ({', '.join(parts)})" if parts else ""


def place_of_error(trace: TracebackType | None) -> str:
    """The module and the last line of the user's code in a traceback, as ` (in …, file, line …)`, or empty."""
    frames = list(traceback.walk_tb(trace))
    modules: list[tuple[FrameType, nn.Module]] = [
        (frame, module)
        for frame, _ in frames
        if isinstance(module := frame.f_locals.get("self"), nn.Module) and frame.f_code.co_name == "forward"
    ]
    # Without the tracer's wrapper, the first is the model, whose `named_modules` has all names.
    users: list[nn.Module] = [
        module for _, module in modules if not type(module).__module__.startswith("nestor_engine.")
    ]
    parts: list[str] = []
    if users:
        named = cast("Iterator[tuple[str, nn.Module]]", users[0].named_modules())
        names = {id(module): name for name, module in named}
        name, kind = names.get(id(users[-1])), type(users[-1]).__name__
        parts.append(f"in {name!r} ({kind})" if name else f"in {kind}")
    lines = [(f.f_code.co_filename, number) for f, number in frames if not _is_ours(f.f_code.co_filename)]
    if lines:
        parts.append(_line(*lines[-1]))
    return f" ({', '.join(parts)})" if parts else ""


def _is_ours(file: str) -> bool:
    return file.startswith("<") or os.path.abspath(file).startswith(_OURS)


def _line(file: str, number: int) -> str:
    code = linecache.getline(file, number).strip()
    code = code if len(code) <= 80 else code[:79] + "…"
    return f"{os.path.basename(file)}, line {number}" + (f": {code}" if code else "")


def _callers() -> Iterator[FrameType]:
    for frame, _ in traceback.walk_stack(None):
        yield frame
