"""What a model holds besides registered parameters, buffers and modules, and what a copy of it must do about that."""

from __future__ import annotations

import dis
import types
import weakref
from collections import deque
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nestor.errors import AttributeOutdated, ClosureReadsModel, ParameterNotRegistered, ParameterNotReplaceable
from nestor_engine.problem.model.outputs import attributes_of
from nestor_engine.problem.model.wrappers import modules_of, wrapped_by

# What deepcopy returns as it is.
_ATOMS = (
    *(int, float, complex, str, bytes, bool, type(None), type, range, property, weakref.ref, torch.dtype, torch.device),
    *(types.BuiltinFunctionType, types.CodeType),
)


@dataclass(frozen=True)
class Name:
    """The name of a registered parameter or buffer."""

    name: str


Template = Name | tuple[Name | None, ...]  # a tensor, or a tuple with tensors among its items


@dataclass(frozen=True)
class Place:
    """An attribute, an entry of a container, or the content of a closure's cell.

    Attributes:
        owner: the object, container or cell.
        key: the name of the attribute, or the key of the entry.
        attribute: whether it is one.
    """

    owner: Any
    key: Any
    attribute: bool = False


@dataclass
class Attributes:
    """The survey of one model.

    Attributes:
        stand_ins: id of an object → what stands for it in a copy; itself if it is shared.
        aliases: where registered tensors are held besides, and which.
        functions: where functions are held whose closures hold parts of the model.
    """

    stand_ins: dict[int, Any] = field(default_factory=dict[int, Any])
    aliases: list[tuple[Place, Template]] = field(default_factory=list[tuple[Place, Template]])
    functions: list[Place] = field(default_factory=list[Place])


class Outdated(Tensor):
    """What stands for a tensor that was computed from parameters before the call: any use of it is an error."""

    _path: str

    @staticmethod
    def of(path: str) -> Outdated:
        """The one for the attribute `path`."""
        made = torch.empty(0, device="meta").as_subclass(Outdated)
        made._path = path
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        used = (leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Outdated))
        raise AttributeOutdated(attribute=next((vars(one).get("_path") for one in used), "of a tensor"))


def survey(model: nn.Module) -> Attributes:
    """Walk through everything that a copy of `model` would copy.

    Raises:
        ParameterNotRegistered: a tensor requires a gradient, and is not one of the model's parameters.
        ClosureReadsModel: a function reads the model as a global variable.
    """
    surveyed = _Survey(model)
    for path, module in modules_of(model):
        if wrapped_by(module) is None:  # a copy has none of these
            surveyed.module(module, f"model.{path}" if path else "model")
    return surveyed.found


class _Survey:
    def __init__(self, model: nn.Module) -> None:
        self.found = Attributes()
        tensors = (*model.named_parameters(), *model.named_buffers())
        self._names = {id(tensor): name for name, tensor in tensors}
        self._storages = {_storage(tensor) for _, tensor in model.named_parameters()} - {0}
        self._modules = {id(module) for module in model.modules()}
        self._met: set[int] = set()
        self._alive: list[Any] = []  # temporary objects, whose ids must stay theirs

    def module(self, module: nn.Module, path: str) -> None:
        """All attributes of a module but its registered tensors and modules."""
        self._met.add(id(module))
        registered = id(module) in self._modules
        for name, value in list(vars(module).items()):
            if name in ("_parameters", "_buffers", "_modules"):
                for key, inner in () if registered else list(value.items()):
                    self._visit(inner, f"{path}.{key}", Place(value, key))
            # Recurrent modules renew this list themselves whenever their weights are replaced.
            elif not (isinstance(module, nn.RNNBase) and name == "_flat_weights"):
                self._visit(value, f"{path}.{name}", Place(module, name, attribute=True))

    def _visit(self, value: Any, path: str, place: Place | None) -> None:
        if isinstance(value, Tensor):
            self._tensor(value, path, place)
        elif isinstance(value, types.FunctionType):
            self._function(value, path, place)
        elif isinstance(value, _ATOMS) or id(value) in self._met or id(value) in self._modules:
            return
        elif isinstance(value, nn.Module):
            self.module(value, path)
        elif isinstance(value, tuple):
            self._tuple(cast("tuple[Any, ...]", value), path, place)
        else:
            self._met.add(id(value))
            self._object(value, path)

    def _tensor(self, value: Tensor, path: str, place: Place | None) -> None:
        if id(value) in self._names:
            if place is None:
                raise ParameterNotReplaceable(attribute=path, name=self._names[id(value)])
            self.found.aliases.append((place, Name(self._names[id(value)])))
        elif value.grad_fn is not None or (not value.requires_grad and _storage(value) in self._storages):
            self.found.stand_ins[id(value)] = Outdated.of(path)
        elif value.requires_grad:
            raise ParameterNotRegistered(attribute=path, shape=tuple(value.shape))

    def _tuple(self, value: tuple[Any, ...], path: str, place: Place | None) -> None:
        template = self._template(value)
        if template is not None and place is not None:
            self.found.aliases.append((place, template))
        for index, item in enumerate(value):
            if template is None or place is None or template[index] is None:  # those of the template are served
                self._visit(item, f"{path}[{index}]", None)

    def _template(self, value: tuple[Any, ...]) -> tuple[Name | None, ...] | None:
        template = tuple(Name(name) if (name := self._names.get(id(item))) else None for item in value)
        return template if any(template) else None

    def _function(self, value: types.FunctionType, path: str, place: Place | None) -> None:
        if id(value) in self._met:
            return
        self._met.add(id(value))
        for name in _globals_of(value):
            held = value.__globals__.get(name)
            if isinstance(held, nn.Module | Tensor) and (id(held) in self._modules or id(held) in self._names):
                raise ClosureReadsModel(attribute=path, name=name)
        # A function in a closure is made anew with that one.
        if place is not None and value.__closure__ and not isinstance(place.owner, types.CellType):
            self.found.functions.append(place)
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            if is_filled(cell):
                if place is None and (id(cell.cell_contents) in self._modules or id(cell.cell_contents) in self._names):
                    raise ClosureReadsModel(attribute=path, name=variable)
                self._visit(cell.cell_contents, f"{path}({variable})", Place(cell, "cell_contents", attribute=True))

    def _object(self, value: Any, path: str) -> None:
        if isinstance(value, types.MethodType):
            self._visit(value.__self__, path, None)
            return
        if not isinstance(value, list | dict | set | frozenset | deque):
            if hasattr(cast("Any", type(value)), "__deepcopy__"):
                return
            try:
                reduced: Any = value.__reduce_ex__(4)
            except Exception:  # a lock, an open file, a generator, …
                self.found.stand_ins[id(value)] = value
                return
            self._alive.append(reduced)
            # Other states are those of the attributes, whose places are known below.
            for part in () if isinstance(reduced, str) else reduced[1:3]:
                if isinstance(part, tuple):
                    self._visit(cast("tuple[Any, ...]", part), path, None)
        for inner, inside, place in _contents(value, path):
            self._visit(inner, inside, place)


def _contents(value: Any, path: str) -> Iterator[tuple[Any, str, Place | None]]:
    """What a container or an object holds: the value, its path, and where it can be replaced."""
    if isinstance(value, MutableMapping):
        for key, inner in list(cast("MutableMapping[Any, Any]", value).items()):
            yield inner, f"{path}[{key!r}]", Place(value, key)
    elif isinstance(value, list | deque):
        for index, inner in enumerate(list(cast("list[Any]", value))):
            yield inner, f"{path}[{index}]", Place(value, index)
    elif isinstance(value, set | frozenset):
        for inner in cast("set[Any]", value):
            yield inner, path, None
    holder = cast("Any", value)
    for name in attributes_of(holder):
        yield getattr(holder, name), f"{path}.{name}", Place(value, name, attribute=True)


def _globals_of(function: types.FunctionType) -> set[str]:
    """The names of global variables that a function reads."""
    return {one.argval for one in dis.get_instructions(function) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}


def is_filled(cell: types.CellType) -> bool:
    """Whether the variable of a closure has a value yet."""
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _storage(tensor: Tensor) -> int:
    """The address of the memory of a tensor; 0 if it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse tensors, and those of subclasses
        return 0
