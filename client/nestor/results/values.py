"""Hyperparameters at one step of a trial, by name, as tensors or arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from nestor.errors import HparamNotFound, OptionTypeWrong, called_as, shown
from nestor.extras import engine, require
from nestor.results import files

if TYPE_CHECKING:
    import numpy
    from torch import Tensor


class Values(Mapping[str, "Tensor | dict[str, Tensor]"]):
    """Name → tensor in the space that is optimized, such as log decay; `transformed` has the values that losses use.

    `values["l2"]` of a prefix is a dict of its members "l2.…". Iteration and `len` use full names.
    """

    def __init__(self, data: bytes, transforms: Mapping[str, str]) -> None:
        """`data` is a safetensors file; `transforms` maps each name to its transform, in the order of declaration."""
        self._data, self._transforms = data, transforms
        self._tensors: dict[str, Tensor] | None = None

    def numpy(self) -> dict[str, numpy.ndarray]:
        """Name → array, in the space that is optimized. This does not import torch."""
        import safetensors.numpy

        return self._in_order(safetensors.numpy.load(self._data))

    @property
    def transformed(self) -> dict[str, Tensor]:
        """Name → the value that the losses use: for `L2` the decay instead of its logarithm.

        Raises:
            MissingExtra: the engine is not installed.
        """
        functions = engine("nestor_engine.hparams", what="Transforming hyperparameters").TRANSFORMS
        return {name: functions[self._transforms.get(name, "identity")](raw) for name, raw in self._all().items()}

    def save(self, path: str | os.PathLike[str], *, transformed: bool = False) -> None:
        """Write a safetensors file, which `nestor.load_values` reads.

        Args:
            path: must end in ".safetensors".
            transformed: write the values that the losses use, whose transform is then the identity. By default the
                file has the values in the space that is optimized, and the transforms in its metadata.

        Raises:
            ArgumentInvalid: `path` has another extension.
            FileUnusable: the file cannot be written.
            MissingExtra: `transformed` is True, and the engine is not installed.
        """
        data, transforms = self._data, self._transforms
        if transformed:
            to_bytes = require("safetensors.torch", what="hparams.save", extra="worker", package="torch").save
            data = to_bytes({name: value.contiguous() for name, value in self.transformed.items()})
            transforms = dict.fromkeys(self, "identity")
        files.write(path, files.with_transforms(data, transforms))

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
            self._tensors = tensors = self._in_order(cast("dict[str, Tensor]", load(self._data)))
            return tensors
        return self._tensors

    def _in_order(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """In the order of declaration; that of a safetensors file depends on dtypes and names."""
        return {name: loaded[name] for name in self._transforms if name in loaded} | loaded


@called_as("nestor.load_values")
def load_values(path: str | os.PathLike[str]) -> Values:
    """The hyperparameters that `hparams.save` wrote, with their transforms.

    Raises:
        FileUnusable: the file cannot be read, or something else wrote it.
    """
    return Values(*files.read(path))


def members(named: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The entry `name`, or the entries that begin with `name` and a dot.

    Raises:
        HparamNotFound: neither.
        OptionTypeWrong: `name` is not a string.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise OptionTypeWrong(option=f"name={shown(name)}", rule="it must be a string")
    found = {name: named[name]} if name in named else {k: v for k, v in named.items() if k.startswith(f"{name}.")}
    if not found:
        raise HparamNotFound(name=name, hparams=list(named))
    return found
