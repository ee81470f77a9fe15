"""Hyperparameters at one step of a trial, by name, as tensors or arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nestor.errors import HparamNotFound
from nestor.extras import engine, require

if TYPE_CHECKING:
    import numpy
    from torch import Tensor


class Values(Mapping[str, "Tensor | dict[str, Tensor]"]):
    """Name → tensor, as optimised; `transformed` holds what the losses read.

    A prefix such as "l2" stands for its members "l2.…", as a dict. Iteration goes over full names.
    """

    def __init__(self, data: bytes, transforms: Mapping[str, str], step: int | None = None) -> None:
        self._data, self._transforms, self._tensors = data, transforms, None
        self.step = step

    def numpy(self) -> dict[str, numpy.ndarray]:
        """Name → array; this needs no torch."""
        import safetensors.numpy

        return safetensors.numpy.load(self._data)

    @property
    def transformed(self) -> dict[str, Tensor]:
        """Name → the value that the losses read: for a decay of `L2`, the decay and not its logarithm."""
        functions = engine("nestor_engine.hparams", what="Transforming hyperparameters").TRANSFORMS
        return {name: functions[self._transforms.get(name, "identity")](raw) for name, raw in self._all().items()}

    def __getitem__(self, name: str) -> Tensor | dict[str, Tensor]:
        tensors = self._all()
        if name in tensors:
            return tensors[name]
        return dict(members(tensors, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(tensor.shape)}" for name, tensor in self._all().items())
        return f"Values({shapes})"

    def _all(self) -> dict[str, Tensor]:
        if self._tensors is None:
            load = require("safetensors.torch", what="Hyperparameters as tensors", extra="worker", package="torch").load
            self._tensors = load(self._data)
        return self._tensors


def members(named: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The entry called `name`, or those that begin with `name` and a dot.

    Raises:
        HparamNotFound: neither.
    """
    found = {name: named[name]} if name in named else {k: v for k, v in named.items() if k.startswith(f"{name}.")}
    if not found:
        raise HparamNotFound(name=name, hparams=list(named))
    return found
