"""What operators of programs are given, checked where their kernels check nothing and read or write beyond a tensor.

A guard returns what is wrong. It costs a few microseconds, because it looks at shapes. Only CTC's looks at values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor

Given: TypeAlias = Mapping[str, Any]
Guard: TypeAlias = Callable[[Given], str | None]


def one_entry_per_channel(given: Given) -> str | None:
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


def labels_of_classes(given: Given) -> str | None:
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


OF_PROGRAMS: dict[str, Guard] = {
    "native_batch_norm": one_entry_per_channel,
    "_weight_norm": _one_length_per_row,
    "median": _not_expanded,
    "nanmedian": _not_expanded,
    "ctc_loss": labels_of_classes,
}
