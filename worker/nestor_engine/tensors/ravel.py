"""Parameters as one vector of shape (n,) for solvers and optimizers, and as a pytree for models."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor.errors import ParameterDtypesDiffer
from nestor_engine.objective import PyTree, Tensors


class Ravel:
    """The correspondence between a pytree of tensors and a vector of shape (n,); both ways are differentiable.

    Attributes:
        device: the device of the tensors in `__init__`.
    """

    def __init__(self, tree: PyTree) -> None:
        leaves, self._spec = pytree.tree_flatten(tree)
        kinds = {leaf.dtype for leaf in leaves}
        if len(kinds) != 1 or not kinds <= {torch.float32, torch.float64}:
            raise ParameterDtypesDiffer(dtypes=sorted(map(str, kinds)))
        self.device = leaves[0].device
        self._shapes = [leaf.shape for leaf in leaves]
        self._sizes = [leaf.numel() for leaf in leaves]

    @property
    def numel(self) -> int:
        """n, the length of the vector."""
        return sum(self._sizes)

    def vector(self, tree: PyTree) -> Tensor:
        """The leaves of `tree` as one vector, shape (n,); a copy."""
        return torch.cat([leaf.reshape(-1) for leaf in pytree.tree_leaves(tree)])

    def tree(self, vector: Tensor) -> PyTree:
        """The pytree whose leaves are views of `vector`, shape (n,)."""
        parts = vector.split_with_sizes(self._sizes)
        return pytree.tree_unflatten([p.view(s) for p, s in zip(parts, self._shapes, strict=True)], self._spec)


def named_leaves(tree: PyTree) -> Tensors:
    """The tensors of a pytree by name; a flat dict keeps its keys, and the parts of deeper paths are joined by dots."""
    named: Tensors = {}
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        named[".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)] = leaf
    return named
