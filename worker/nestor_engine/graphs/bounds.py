"""Bounds on what an operator is given, where its kernel checks nothing and would hang or write beyond a tensor.

Numbers in the document are checked when it is read; numbers that a graph computes, and tensors, when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias, cast

from torch import Tensor

from nestor.errors import ProgramRejected
from nestor_engine.graphs.operators import AtenOperator

# No layer has a larger kernel, stride, padding, dilation, or number of groups.
MAX_SETTING = 2**22
MAX_PARTS = 2**12  # that a tensor is divided into, whatever its size: each becomes a tensor of its own
# A trace has the derivatives of slices and others, whose arguments are those of the operator.
_AS_LONG_AS_TENSORS = frozenset(
    """
    C HxW N bins bias_sizes col end from high ignore_index index indices input_size input_sizes k length low m minlength
    n normalized_shape num_classes num_samples num_weights offset padding_idx repeats row s self_sizes shape shifts size
    sizes split_size split_sizes start step steps to window_length
    """.split()
)

Given: TypeAlias = Mapping[str, Any]
Guard = Callable[[Given], str | None]


def is_setting(name: str) -> bool:
    """Whether an integer argument of this name is neither a size nor a position in a tensor."""
    return name not in _AS_LONG_AS_TENSORS


def limit_of(name: str) -> int:
    """The largest value of a setting."""
    return MAX_PARTS if name == "sections" else MAX_SETTING


def too_large(name: str, value: object) -> bool:
    """Whether the argument `name` is, or holds, an integer that is no setting of a layer."""
    if isinstance(value, list | tuple):
        return any(too_large(name, item) for item in cast("Sequence[object]", value))
    return type(value) is int and is_setting(name) and abs(value) > limit_of(name)


def guarded(operator: AtenOperator, computed: frozenset[str]) -> Callable[..., Any]:
    """The operator, which first checks what it is given.

    Args:
        computed: the settings that hold numbers which the graph computes.
    """
    name, target, guard = operator.name, operator.target, GUARDS.get(operator.base)
    arguments = [argument.name for argument in operator.arguments]

    def checked(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(arguments, args, strict=False)) | kwargs
        for setting in computed:
            if too_large(setting, given[setting]):
                raise ProgramRejected(reason=f"{name}: {setting!r} must be at most {limit_of(setting):,}.")
        if guard is not None and (reason := guard(given)) is not None:
            raise ProgramRejected(reason=f"{name}: {reason}.")
        return target(*args, **kwargs)

    return checked


@cache
def in_64_bits(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of sizes whose result must be a size: numbers that grow with each step take unbounded time."""

    def bounded(*args: Any) -> Any:
        result = function(*args)
        if type(result) is int and not -(2**63) <= result < 2**63:
            raise ProgramRejected(reason=f"{name}: its result has more than 64 bits.")
        return result

    return bounded


def _one_entry_per_channel(given: Given) -> str | None:
    """Kernels of batch normalization read and write so many entries of these, whatever their sizes."""
    x: Tensor = given["input"]
    channels = list(x.shape[1:2])
    trains = next((given[name] for name in ("training", "train", "update") if name in given), True)
    # In evaluation mode the saved statistics are empty, and the kernels read the running ones in their place.
    saved = ("save_mean", "save_invstd", "save_var") if trains else ()
    for name in ("weight", "bias", "running_mean", "running_var", *saved):
        found: Tensor | None = given.get(name)
        if found is not None and list(found.shape) != channels:
            return f"{name!r} has the shape {list(found.shape)}, and its input {list(x.shape)}"
    if not trains and (given["running_mean"] is None or given["running_var"] is None):
        return "without running statistics it must be in training mode"
    return None


def _one_length_per_row(given: Given) -> str | None:
    """The kernel of weight normalization reads one entry of `g` for each row or column of `v`."""
    v, g, dim = given["v"], given["g"], given.get("dim", 0)
    if (v.dim() != g.dim() and dim != -1) or not -1 <= dim < v.dim() or v.dtype != g.dtype:
        return f"g has {g.dim()} dimensions, v {v.dim()}, and dim is {dim}"
    wanted = [size if at == dim else 1 for at, size in enumerate(v.shape)]
    return None if dim == -1 or list(g.shape) == wanted else f"g has the shape {list(g.shape)}, not {wanted}"


def _not_expanded(given: Given) -> str | None:
    """The kernel of the median reads as many entries as the tensor has, and an expanded tensor has fewer in memory."""
    x: Tensor = given["self"]
    if any(stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)):
        return "it takes no expanded tensor; call contiguous() first"
    return None


def _labels_of_classes(given: Given) -> str | None:
    """The kernels of CTC take the lengths and labels as positions, and check few of them."""
    x, labels, blank = given["log_probs"], given["targets"], given.get("blank", 0)
    if x.dim() not in (2, 3) or labels.dim() not in (1, 2) or labels.is_floating_point() or labels.is_complex():
        return "it takes log_probs of 2 or 3 dimensions, and integers of 1 or 2 as targets"
    steps, n, classes = x.shape[0], 1 if x.dim() == 2 else x.shape[1], x.shape[-1]
    lengths = [_integers(given["input_lengths"]), _integers(given["target_lengths"])]
    longest = labels.shape[-1] if labels.dim() == 2 or x.dim() == 2 else labels.numel()
    for found, limit in zip(lengths, (steps, longest), strict=True):
        if len(found) != n or not all(0 <= length <= limit for length in found):
            return f"a length is not between 0 and {limit}, or there are not {n} lengths"
    if labels.shape[0] != n if labels.dim() == 2 else sum(lengths[1]) > labels.numel():
        return f"there are fewer targets than {n} lengths say"
    if not 0 <= blank < classes or not bool(((labels >= 0) & (labels < classes)).all()):
        return f"a label is not between 0 and {classes - 1}"
    return None


def _integers(lengths: Any) -> list[int]:
    return [int(length) for length in (lengths.flatten() if isinstance(lengths, Tensor) else lengths)]


GUARDS: dict[str, Guard] = {
    "native_batch_norm": _one_entry_per_channel,
    "native_batch_norm_backward": _one_entry_per_channel,
    "batch_norm_backward": _one_entry_per_channel,
    "cudnn_batch_norm": _one_entry_per_channel,
    "cudnn_batch_norm_backward": _one_entry_per_channel,
    "_weight_norm": _one_length_per_row,
    "median": _not_expanded,
    "nanmedian": _not_expanded,
    "ctc_loss": _labels_of_classes,
    "_ctc_loss_backward": _labels_of_classes,
}
