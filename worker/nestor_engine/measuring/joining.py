"""Join the outputs of chunks of examples into those of all examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nestor_engine.distributed import Share


def joined(parts: Sequence[Tensor], sizes: Sequence[int], share: Share) -> Tensor | None:
    """One output on all examples, in their order and on every process; None if it cannot be joined.

    A floating-point output without a dimension for the examples, such as a loss that the model computes, is taken for
    a mean over them.

    Args:
        parts: the output on each chunk of this process.
        sizes: how many examples each chunk has.
    """
    dim = _dimension([part.shape for part in parts], sizes)
    if dim is not None:
        return share.gather(torch.cat(list(parts), dim), dim)
    if len({part.shape for part in parts}) > 1:
        return None
    if parts[0].is_floating_point():
        mean = sum(part.double() * (size / sum(sizes)) for part, size in zip(parts, sizes, strict=True))
        return share.mean(torch.as_tensor(mean)).to(parts[0].dtype)
    return parts[0] if all(torch.equal(part, parts[0]) for part in parts) else None


def _dimension(shapes: Sequence[torch.Size], sizes: Sequence[int]) -> int | None:
    """The dimension along which the chunks have one entry, or equally many, for each example."""
    if len({len(shape) for shape in shapes}) > 1 or not shapes[0]:
        return None

    def fits(dim: int, per_example: int) -> bool:
        others = {(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}
        return len(others) == 1 and all(s[dim] == per_example * n for s, n in zip(shapes, sizes, strict=True))

    per_example = shapes[0][0] // sizes[0]  # more than one after x.view(-1, classes)
    candidates = [*((dim, 1) for dim in range(len(shapes[0]))), *([(0, per_example)] if per_example else [])]
    return next((dim for dim, n in candidates if fits(dim, n)), None)
