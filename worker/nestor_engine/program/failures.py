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
    "Write x.shape[0] or -1 for the batch (not len(x), int(x.shape[0]) or a number), use operators on the whole batch "
    "in place of a Python loop over it, and do not branch on the batch size.",
)
_AVERAGED = (
    "BatchNorm(momentum=None) averages over all batches, with a factor that depends on their number.",
    "Give it a momentum, such as 0.1.",
)
_LOOP = (
    "it loops over the examples of a batch in Python.",
    "Apply layers and operators to the whole batch; for a loop over time steps, put the time first.",
)
_FIXES = "torch's {name} fixes the batch size in a program."
_ELSE = "Write that part with ordinary torch functions, or run the problem in this process (server=None)."
_PACKED = (
    "it packs sequences, whose shapes depend on the data.",
    "Give the recurrent module the padded sequences, take the last step of each with gather, and mask the loss.",
)
_DATA_DEPENDENT = (
    "its control flow or a shape depends on the values of a tensor.",
    "Use torch.where in place of if, and masks in place of selections; leave out .item() and .tolist().",
)
_ONE_HOT = ("torch's one_hot counts the classes in the values.", "Pass it num_classes.")
CHECKPOINT = (
    "it checkpoints activations (torch.utils.checkpoint), which runs parts of the model again in the backward pass.",
    "Call those parts directly.",
)
# Functions of torch whose call explains a failure: name → (reason, remedy).
_CALLED: dict[str, tuple[str, str]] = {
    "__iter__": _LOOP,
    "cdist": (_FIXES.format(name="cdist"), "Pass compute_mode='use_mm_for_euclid_dist' to it."),
    "__len__": _BATCH_SIZE,
    "grid_sampler": (_FIXES.format(name="grid_sample"), _ELSE),
}
# A pattern in the message → (reason, remedy); the first match counts.
_KNOWN: tuple[tuple[str, tuple[str, str]], ...] = (
    ("specialized it to be a constant|generated guard|Constraints violated", _BATCH_SIZE),
    (
        "data-dependent|DataDependent|dynamic output shape|DynamicOutputShape|unbacked",
        _DATA_DEPENDENT,
    ),
    (
        r"\.numpy\(\)|numpy|__array__",
        (
            "it leaves torch for NumPy.",
            "Use the torch function of the same name, or run the problem in this process (server=None).",
        ),
    ),
    (
        r"\.tolist|\.item\(\)|_local_scalar_dense",
        ("it turns a tensor into a Python number.", "Keep it a tensor: leave out .item(), .tolist() and float()."),
    ),
    ("packed|PackedSequence", _PACKED),
    (
        "in-place operation",
        ("it writes into its argument.", "Work on a copy, as in x = x + 1 in place of x += 1."),
    ),
)

NO_SUCH_OPERATOR = {
    "": (
        "it uses {name}, which programs do not support.",
        _ELSE,
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
    """Records where functions of torch were called first, because no error message says where a size was fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}  # the function's name → its place, as ` (in …, file, line …)`

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(getattr(func, "__name__", ""))
        if name == "unbind" and len(args) + len(kwargs or {}) < 3 and isinstance(args[0].shape[0], torch.SymInt):
            name = "__iter__"  # `for row in x`
        if name == "one_hot" and len(args) + len(kwargs or {}) < 2:
            name = "one_hot without num_classes"
        if name not in self.places:
            self.places[name] = place_of_caller()
        return func(*args, **(kwargs or {}))


def explain(function: str, error: Exception, watch: Watch) -> NotExportable:
    """The error to raise when tracing `function` raised `error`: with place, reason and remedy."""
    text = f"{type(error).__name__}: {error}"
    first_line = str(error).strip().split("\n")[0]
    reason, remedy = _of_batch_norm(error.__traceback__) or next(
        (advice for pattern, advice in _KNOWN if re.search(pattern, text)),
        (
            f"torch says: {first_line}" + ("" if first_line.endswith(".") else "."),
            "Change that part of the model or the loss.",
        ),
    )
    where = place_of_error(error.__traceback__)
    if (reason, remedy) == _DATA_DEPENDENT and (place := watch.places.get("one_hot without num_classes")):
        return NotExportable(function=function, where=place, reason=_ONE_HOT[0], remedy=_ONE_HOT[1])
    if "_pack_padded_sequence" in watch.places:
        where, (reason, remedy) = watch.places["_pack_padded_sequence"], _PACKED
    elif (reason, remedy) == _BATCH_SIZE:
        # torch finds this after the function has run, so the traceback does not contain the line.
        where = ""
        if called := next((name for name in _CALLED if name in watch.places), None):
            where, (reason, remedy) = watch.places[called], _CALLED[called]
    return NotExportable(function=function, where=where, reason=reason, remedy=remedy)


def _of_batch_norm(trace: TracebackType | None) -> tuple[str, str] | None:
    """Reason and remedy if a BatchNorm counts batches, which fails under the name of an operator; None otherwise."""
    modules = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(trace)]
    norms = [one for one in modules if isinstance(one, nn.modules.batchnorm._BatchNorm)]  # pyright: ignore[reportPrivateUsage]
    return _AVERAGED if any(one.momentum is None for one in norms) else None


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
    return _place([(frame, number) for frame, number in traceback.walk_tb(trace)])


def place_of_caller() -> str:
    """The module and the line of the user's code that runs, as ` (in …, file, line …)`, or empty."""
    return _place(list(traceback.walk_stack(None))[::-1])


def _place(frames: list[tuple[FrameType, int]]) -> str:
    modules: list[tuple[FrameType, nn.Module]] = [
        (frame, module)
        for frame, _ in frames
        if isinstance(module := frame.f_locals.get("self"), nn.Module) and frame.f_code.co_name == "forward"
    ]
    # Without the tracer's wrapper, the first is the model, whose `named_modules` has all names.
    users: list[nn.Module] = [
        module for _, module in modules if not type(module).__module__.startswith("nestor_engine.program.")
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
