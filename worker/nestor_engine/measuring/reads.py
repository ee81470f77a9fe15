"""Find out which tensors a function reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree


class Reads(TorchFunctionMode):
    """Records which tensors functions of torch are called with, in the thread and while it is entered.

    NumPy and scikit-learn read a tensor through such a function, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, Tensor] = {}  # kept, so that no other tensor gets the id

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._seen[id(leaf)] = leaf
        return func(*args, **(kwargs or {}))

    def has_seen(self, tensor: object) -> bool:
        """Whether it was read."""
        return id(tensor) in self._seen
