"""The same as `guards` for the derivatives of operators, which saved traces call and programs do not.

Autograd calls their kernels with tensors of its own, so they check little: a trace that somebody forged could make them
read or write beyond a tensor.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from nestor_engine.graphs.guards import Given, Guard, labels_of_classes, one_entry_per_channel


def _alike(*names: str) -> Guard:
    """These tensors have the same shape and dtype."""

    def alike(given: Given) -> str | None:
        first, *others = (given[name] for name in names)
        for name, other in zip(names[1:], others, strict=True):
            if other.shape != first.shape or other.dtype != first.dtype:
                return _differ(names[0], first, name, other)
        return None

    return alike


def _differ(name: str, tensor: Tensor, other: str, second: Tensor) -> str:
    shapes = f"{name!r} has the shape {list(tensor.shape)}, and {other!r} {list(second.shape)}"
    return f"{shapes}; their dtypes are {tensor.dtype} and {second.dtype}"


def _batch_norm(given: Given) -> str | None:
    gradient: Tensor = given["grad_out"] if "grad_out" in given else given["grad_output"]
    if gradient.shape != given["input"].shape:
        return f"its gradient has the shape {list(gradient.shape)}, and its input {list(given['input'].shape)}"
    trains = next((given[name] for name in ("train", "update") if name in given), True)
    if trains and any(given.get(name, gradient) is None for name in ("save_mean", "save_invstd", "save_var")):
        return "in training mode it needs the saved statistics"
    return one_entry_per_channel(given)


def _layer_norm(given: Given) -> str | None:
    x: Tensor = given["input"]
    normalized = list(given["normalized_shape"])
    n = len(normalized)
    if not 0 < n <= x.dim() or list(x.shape[-n:]) != normalized:
        return f"its input has the shape {list(x.shape)}, which does not end in {normalized}"
    rows = prod(x.shape[:-n])
    if given["grad_out"].shape != x.shape or any(given[name].numel() != rows for name in ("mean", "rstd")):
        return f"the gradient does not have the shape {list(x.shape)}, or there are not {rows} means and deviations"
    for name in ("weight", "bias"):
        if given[name] is not None and list(given[name].shape) != normalized:
            return f"{name!r} has the shape {list(given[name].shape)}, not {normalized}"
    return None


def _distances_of_pairs(given: Given) -> str | None:
    """`pdist`: one distance for each pair of rows."""
    x: Tensor = given["self"]
    if x.dim() != 2:
        return f"'self' has the shape {list(x.shape)}; it takes matrices"
    pairs = [len(x) * (len(x) - 1) // 2]
    for name in ("grad", "pdist"):
        if name in given and (list(given[name].shape) != pairs or given[name].dtype != x.dtype):
            return _differ("self", x, name, given[name])
    return None


def _distances_between(given: Given) -> str | None:
    """`cdist`: one distance for each row of `x1` and row of `x2`."""
    x1, x2 = given["x1"], given["x2"]
    if min(x1.dim(), x2.dim()) < 2 or x1.shape[-1] != x2.shape[-1] or x1.shape[:-2] != x2.shape[:-2]:
        return _differ("x1", x1, "x2", x2)
    wanted = [*x1.shape[:-1], x2.shape[-2]]
    for name in ("grad", "cdist"):
        if list(given[name].shape) != wanted or not given[name].dtype == x1.dtype == x2.dtype:
            return f"{name!r} has the shape {list(given[name].shape)} and the dtype {given[name].dtype}, not {wanted}"
    return None


def _of_embedded(given: Given) -> str | None:
    gradient: Tensor = given["grad_output"] if "grad_output" in given else given["grad"]
    indices: Tensor = given["indices"]
    if gradient.dim() == 0 or gradient.shape[:-1] != indices.shape:
        return f"its gradient has the shape {list(gradient.shape)}, and 'indices' {list(indices.shape)}"
    # The kernel ignores wrong indices unless it counts them.
    return _outside(indices, given["num_weights"]) if given.get("scale_grad_by_freq") else None


def _outside(indices: Tensor, n: int) -> str | None:
    """What is wrong if not all are positions in `n` entries.

    It takes as long as reading them. A GPU would have to be waited for, and a wrong position there is one in the
    memory of the runner alone.
    """
    wrong = indices.is_cpu and not bool(((indices >= 0) & (indices < n)).all())
    return f"an index is not between 0 and {n - 1}" if wrong else None


def _average_pool(count: int) -> Guard:
    """The gradient and `self` differ at most in the last `count` sizes."""

    def average_pool(given: Given) -> str | None:
        gradient, x = given["grad_output"], given["self"]
        fits = gradient.dim() == x.dim() in (count + 1, count + 2) and gradient.shape[:-count] == x.shape[:-count]
        return None if fits and gradient.dtype == x.dtype else _differ("grad_output", gradient, "self", x)

    return average_pool


def _max_pool(count: int) -> Guard:
    """The same, and each entry of the gradient belongs to one of `self` in its last `count` sizes."""

    def max_pool(given: Given) -> str | None:
        gradient, x, indices = given["grad_output"], given["self"], given["indices"]
        if gradient.shape != indices.shape or indices.dtype != torch.int64:
            return _differ("grad_output", gradient, "indices", indices)
        return _average_pool(count)(given) or _outside(indices, prod(x.shape[-count:]))

    return max_pool


def _windows(given: Given) -> str | None:
    """`unfold`: the gradient has a window of `size` entries for each `step` along `dim`."""
    gradient: Tensor = given["grad_in"]
    sizes, dim, size, step = list(given["input_sizes"]), given["dim"], given["size"], given["step"]
    if not -len(sizes) <= dim < len(sizes) or size < 0 or step < 1 or size > sizes[dim]:
        return f"windows of {size} in steps of {step} along {dim} do not fit into {sizes}"
    wanted = [*sizes, size]
    wanted[dim % len(sizes)] = (sizes[dim] - size) // step + 1
    return (
        None if list(gradient.shape) == wanted else f"its gradient has the shape {list(gradient.shape)}, not {wanted}"
    )


def _padded(count: int) -> Guard:
    """The gradient is as large as `self` with its padding, in the last `count` sizes."""

    def padded(given: Given) -> str | None:
        gradient, x, padding = given["grad_output"], given["self"], list(given["padding"])
        if len(padding) != 2 * count or x.dim() not in (count + 1, count + 2):
            return f"'self' has {x.dim()} dimensions, and the padding {len(padding)} numbers"
        wanted = list(x.shape)
        for at in range(count):
            wanted[-1 - at] += padding[2 * at] + padding[2 * at + 1]
        if list(gradient.shape) != wanted or gradient.dtype != x.dtype:
            return f"its gradient is {gradient.dtype} of the shape {list(gradient.shape)}, not {x.dtype} of {wanted}"
        return None

    return padded


def _of_classes(given: Given) -> str | None:
    """A margin loss: one class for each example, and one weight for each class."""
    x, target, weight = given["self"], given["target"], given.get("weight")
    if x.dim() not in (1, 2) or target.numel() != x.shape[:-1].numel() or not x.numel():
        return f"'self' has the shape {list(x.shape)}, and 'target' {list(target.shape)}"
    if weight is not None and list(weight.shape) != list(x.shape[-1:]):
        return f"'weight' has the shape {list(weight.shape)}, and there are {x.shape[-1]} classes"
    if given["grad_output"].numel() not in (1, target.numel()):
        return f"its gradient has the shape {list(given['grad_output'].shape)}, and there are {target.numel()} examples"
    return None


OF_TRACES: dict[str, Guard] = {
    "native_batch_norm_backward": _batch_norm,
    "batch_norm_backward": _batch_norm,
    "cudnn_batch_norm": one_entry_per_channel,
    "cudnn_batch_norm_backward": _batch_norm,
    "native_layer_norm_backward": _layer_norm,
    "_ctc_loss_backward": labels_of_classes,
    "_softmax_backward_data": _alike("grad_output", "output"),
    "_log_softmax_backward_data": _alike("grad_output", "output"),
    "_pdist_forward": _distances_of_pairs,
    "_pdist_backward": _distances_of_pairs,
    "_cdist_backward": _distances_between,
    "embedding_backward": _of_embedded,
    "embedding_dense_backward": _of_embedded,
    "gelu_backward": _alike("grad_output", "self"),
    "unfold_backward": _windows,
    "_adaptive_avg_pool2d_backward": _average_pool(2),
    "_adaptive_avg_pool3d_backward": _average_pool(3),
    "adaptive_max_pool2d_backward": _max_pool(2),
    "adaptive_max_pool3d_backward": _max_pool(3),
    "multi_margin_loss_backward": _of_classes,
    "reflection_pad1d_backward": _padded(1),
    "reflection_pad2d_backward": _padded(2),
    "reflection_pad3d_backward": _padded(3),
    "replication_pad1d_backward": _padded(1),
    "replication_pad2d_backward": _padded(2),
    "replication_pad3d_backward": _padded(3),
}
