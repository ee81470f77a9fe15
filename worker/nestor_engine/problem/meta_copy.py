"""A copy of a module without its tensors, for calls that pass weights, buffers and hyperparameters."""

from __future__ import annotations

import copy
import types
from typing import Any, cast

from torch import nn

from nestor.errors import ModelNotCopyable, NestorError
from nestor_engine.problem.model.attributes import Attributes, Name, Place, Template, is_filled, survey
from nestor_engine.problem.model.wrappers import PassThrough, modules_of, wrapped_by

Memo = dict[int, Any]  # id of an original → its copy


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are on the meta device, so that a missing tensor is an error.

    The modes of the submodules are kept, and shared tensors stay shared. Gradients of embeddings become dense,
    because all weights are one vector. What cannot be copied, such as a lock, is shared with the model.

    Raises:
        ModelInvalid: an attribute holds something that the copy would not train, or that cannot be copied.
    """
    found = survey(model)
    memo: Memo = {id(t): t.detach().to("meta") for t in (*model.parameters(), *model.buffers())}
    memo |= {id(p): nn.Parameter(memo[id(p)], requires_grad=p.requires_grad) for p in model.parameters()}
    memo |= found.stand_ins
    # Wrappers inside of the model distribute or compile, which a copy must not do.
    inside = {module: inner for module in model.modules() if (inner := wrapped_by(module)) is not None}
    passing = {module: PassThrough(module) for module in inside}
    memo |= {id(module): made for module, made in passing.items()}
    copied = _copied(model, memo)
    for module, made in passing.items():
        made.hold(copy.deepcopy(inside[module], memo))
    _rebind(found, memo)
    places = [(_place_in_copy(place, memo), template) for place, template in found.aliases]
    if held := [(place, template) for place, template in places if place is not None]:
        _Aliases(held).watch(copied)
    for module in copied.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False
    return copied


class _Aliases:
    """Puts the tensors of a call wherever the model holds its parameters and buffers besides, such as in a list."""

    def __init__(self, held: list[tuple[Place, Template]]) -> None:
        self._held = [(place, template, _read(place)) for place, template in held]

    def watch(self, module: nn.Module) -> None:
        """Do so for the time of each call of `module`."""
        module.register_forward_pre_hook(self._fill, prepend=True)
        module.register_forward_hook(self._empty, always_call=True)

    def _fill(self, module: nn.Module, args: Any) -> None:
        del args
        for place, template, _ in self._held:
            _write(place, _filled(template, _read(place), module))

    def _empty(self, module: nn.Module, args: Any, outputs: Any) -> None:
        del module, args, outputs
        for place, _, before in self._held:
            _write(place, before)


def _filled(template: Template, value: Any, module: nn.Module) -> Any:
    """`value` with the present tensors of `module` in the places that `template` names."""
    if isinstance(template, Name):
        path, _, name = template.name.rpartition(".")
        return getattr(module.get_submodule(path), name)
    items = [item if name is None else _filled(name, item, module) for name, item in zip(template, value, strict=True)]
    kind = cast("Any", type(value))
    return kind(*items) if hasattr(kind, "_fields") else tuple(items)


def _read(place: Place) -> Any:
    return getattr(place.owner, place.key) if place.attribute else place.owner[place.key]


def _write(place: Place, value: Any) -> None:
    if not place.attribute:
        place.owner[place.key] = value
    elif isinstance(place.owner, nn.Module):  # which would register a parameter
        vars(place.owner)[place.key] = value
    else:
        object.__setattr__(place.owner, place.key, value)


def _place_in_copy(place: Place, memo: Memo) -> Place | None:
    """The same place in the copy; None if the copy has no such object, because nothing in it was copied."""
    owner = memo.get(id(place.owner))
    return None if owner is None else Place(owner, place.key, place.attribute)


def _rebind(found: Attributes, memo: Memo) -> None:
    """Replace functions whose closures hold parts of the model by such that hold the parts of its copy."""
    for place in found.functions:
        here = _place_in_copy(place, memo)
        if here is not None and isinstance(function := _read(here), types.FunctionType):
            _write(here, _rebound(function, memo))


def _rebound(function: types.FunctionType, memo: Memo) -> types.FunctionType:
    if id(function) in memo:
        return memo[id(function)]
    cells: list[types.CellType] = []
    for cell in function.__closure__ or ():
        made = cell
        if is_filled(cell):
            value: Any = cell.cell_contents
            inner = _rebound(value, memo) if isinstance(value, types.FunctionType) else copy.deepcopy(value, memo)
            if inner is not value:
                made = memo[id(cell)] = types.CellType(inner)
        cells.append(made)
    if all(made is cell for made, cell in zip(cells, function.__closure__ or (), strict=True)):
        return function
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells)
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    memo[id(function)] = made
    return made


def _copied(model: nn.Module, memo: Memo) -> nn.Module:
    """A deep copy. What has a copy in `memo` is not copied again.

    Raises:
        ModelNotCopyable: naming the attribute that raises an error when it is copied.
    """
    before = dict(memo)  # a copy that fails leaves objects without content in it
    try:
        return copy.deepcopy(model, memo)
    except NestorError:
        raise
    except Exception as error:
        attribute = next((path for path, value in _attributes(model) if not _is_copyable(value, before)), "of its own")
        sentence = f"{type(error).__name__}: {error}".split("\n")[0].rstrip(".")
        raise ModelNotCopyable(attribute=attribute, error=sentence) from error


def _attributes(model: nn.Module) -> list[tuple[str, Any]]:
    return [
        (f"model.{path}.{name}" if path else f"model.{name}", value)
        for path, module in modules_of(model)
        for name, value in vars(module).items()
        if name not in ("_parameters", "_buffers", "_modules")
    ]


def _is_copyable(value: Any, memo: Memo) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        return False
    return True
