"""Outputs of a model that are objects: dataclasses, named tuples, mappings, and what else holds tensors.

The engine and a program see the tensors of such an object. The losses get an object of its class with its other
attributes, made anew for each call from a recipe, because the first one holds the tensors of another call.
"""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nestor.errors import OutputDependsOnBatchSize
from nestor_engine.objective import PyTree

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool)  # numbers that depend on a size, while a function is traced
_OPAQUE = (type, nn.Module, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
_BUILTIN: tuple[Any, ...] = (OrderedDict, dict, list, tuple)  # bases whose entries are not attributes


@dataclass(frozen=True)
class Outputs:
    """The tensors of an object, each once, and how to make the object from them."""

    tensors: tuple[Any, ...]
    recipe: Recipe


@dataclass(frozen=True)
class Recipe:
    """An object, or a value in it.

    Attributes:
        kind: "tensor", "size", "constant", "shape", "tree", "object" or "again".
        value: the number of the tensor; (tensor, dimension) of the size; the constant; what pytree knows of the
            container; the class, attributes, keys and number of the object; the number of an object around this one.
        children: what the container or the object holds.
    """

    kind: str
    value: Any
    children: tuple[Recipe, ...] = ()


def _tensors(outputs: Outputs) -> tuple[list[Any], Recipe]:
    return list(outputs.tensors), outputs.recipe


def _with(tensors: Any, recipe: Any) -> Outputs:
    return Outputs(tuple(tensors), recipe)


pytree.register_pytree_node(Outputs, _tensors, _with, serialized_type_name="nestor_engine.Outputs")


def flattened(outputs: PyTree) -> PyTree:
    """`outputs` if they are lists, tuples and dicts of tensors and constants; otherwise `Outputs`.

    Raises:
        OutputDependsOnBatchSize: the object holds a number that was computed from the batch size.
    """
    if _is_plain(outputs):
        return outputs
    first = _Flattening([])
    recipe = first.recipe(outputs)
    # A size may be that of a tensor that comes behind it.
    recipe = _Flattening(first.tensors).recipe(outputs) if first.sized else recipe
    return Outputs(tuple(first.tensors), recipe)


def restored(outputs: PyTree) -> PyTree:
    """What the model returned, from what `flattened` made of it."""
    if not isinstance(outputs, Outputs):
        return outputs
    return _restored(outputs.recipe, outputs.tensors, {})


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, cast("dict[Any, Any]", value).values()))
    return value is None or isinstance(value, (Tensor, bool, int, float, str, *_NUMBERS))


class _Flattening:
    """Collects the tensors of one object.

    Attributes:
        tensors: each once, in the order in which they were met.
        sized: whether a number depends on a size.
    """

    def __init__(self, known: list[Tensor]) -> None:
        self.tensors, self.sized = list(known), False
        self._final = bool(known)
        self._numbers = {id(tensor): number for number, tensor in enumerate(known)}
        self._objects: dict[int, Recipe] = {}

    def recipe(self, value: Any) -> Recipe:
        """How to make `value` again."""
        if isinstance(value, Tensor):
            number = self._numbers.setdefault(id(value), len(self.tensors))
            if number == len(self.tensors):
                self.tensors.append(value)
            return Recipe("tensor", number)
        if isinstance(value, _NUMBERS):
            self.sized = True
            return self._size(value) if self._final else Recipe("size", None)
        if isinstance(value, _OPAQUE):
            return Recipe("constant", value)
        if isinstance(value, torch.Size):
            return _unless_constant(value, Recipe("shape", None, tuple(map(self.recipe, value))))
        children, spec = pytree.tree_flatten(value, is_leaf=lambda inner: inner is not value)
        if not spec.is_leaf():  # a type that pytree knows, of torch or registered by its author
            return _unless_constant(value, Recipe("tree", spec, tuple(map(self.recipe, children))))
        return self._object(value)

    def _object(self, value: Any) -> Recipe:
        if id(value) in self._objects:
            return self._objects[id(value)]
        number, names, keys = len(self._objects), tuple(attributes_of(value)), _keys(value)
        self._objects[id(value)] = Recipe("again", number)
        entries: list[Any] = [value[key] for key in keys]
        children = [*entries, *(getattr(value, name) for name in names)]
        made = _unless_constant(
            value, Recipe("object", (type(value), names, keys, number), tuple(map(self.recipe, children)))
        )
        if made.kind == "constant":
            self._objects[id(value)] = made
        return made

    def _size(self, number: Any) -> Recipe:
        for position, tensor in enumerate(self.tensors):
            for dim, size in enumerate(tensor.shape):
                if str(size) == str(number):
                    return Recipe("size", (position, dim))
        raise OutputDependsOnBatchSize(number=str(number))


def _unless_constant(value: Any, recipe: Recipe) -> Recipe:
    """`recipe`, or `value` itself if it holds no tensor: an enumeration has one object for each member."""
    return Recipe("constant", value) if all(child.kind == "constant" for child in recipe.children) else recipe


def _restored(recipe: Recipe, tensors: tuple[Any, ...], objects: dict[int, Any]) -> Any:
    match recipe.kind:
        case "tensor":
            return tensors[recipe.value]
        case "size":
            position, dim = recipe.value
            return tensors[position].shape[dim]
        case "constant":
            return recipe.value
        case "again":
            return objects[recipe.value]
        case "object":
            return _object(recipe, tensors, objects)
        case _:
            children = [_restored(child, tensors, objects) for child in recipe.children]
            return torch.Size(children) if recipe.kind == "shape" else pytree.tree_unflatten(children, recipe.value)


def _object(recipe: Recipe, tensors: tuple[Any, ...], objects: dict[int, Any]) -> Any:
    """An object without a call of its __init__, which may compute, or refuse what is there already."""
    cls, names, keys, number = recipe.value
    entries, attributes = recipe.children[: len(keys)], recipe.children[len(keys) :]
    base = _base_of(cls)
    if issubclass(cls, tuple):  # which is complete when it is made, so it cannot hold itself
        made = base.__new__(cls, [_restored(entry, tensors, objects) for entry in entries])
        objects[number] = made
    else:
        made = base.__new__(cls)
        objects[number] = made
        for key, entry in zip(keys, entries, strict=True):
            value = _restored(entry, tensors, objects)
            base.append(made, value) if issubclass(cls, list) else base.__setitem__(made, key, value)
    for name, attribute in zip(names, attributes, strict=True):
        object.__setattr__(made, name, _restored(attribute, tensors, objects))  # frozen dataclasses, too
    return made


def _base_of(cls: type) -> Any:
    return cast("Any", next((base for base in _BUILTIN if issubclass(cls, base)), object))


def _keys(value: Any) -> tuple[Any, ...]:
    if isinstance(value, dict):
        return tuple(cast("dict[Any, Any]", value))
    return tuple(range(len(cast("list[Any]", value)))) if isinstance(value, list | tuple) else ()


def attributes_of(value: Any) -> Iterator[str]:
    """The names of the attributes that are set, in `__dict__` and in slots."""
    for cls in type(value).__mro__:
        given: Any = vars(cls).get("__slots__", ())
        for slot in (given,) if isinstance(given, str) else given:
            name = f"_{cls.__name__.lstrip('_')}{slot}" if slot.startswith("__") and not slot.endswith("__") else slot
            if not slot.startswith("__dict__") and slot != "__weakref__" and hasattr(value, name):
                yield name
    yield from getattr(value, "__dict__", {})
