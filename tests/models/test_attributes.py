"""What a model holds besides its parameters does not stop it, or is named."""

from __future__ import annotations

import contextvars
import functools
import logging
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import nestor_engine as engine
from nestor.errors import (
    AttributeOutdated,
    ClosureReadsModel,
    ModelNotCopyable,
    NestorError,
    ParameterNotRegistered,
    ParameterNotReplaceable,
)
from tests.models.comparing import CLASSES, FEATURES, gradients, numbers_here_and_shipped, plain_gradients, problem


class Net(nn.Module):
    """It adds a penalty of the tensor that `read` finds in `held`, if there is one."""

    held: Any

    def __init__(self, hold: Callable[[Net], Any] | None = None, read: Callable[[Any], Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(FEATURES, 16), nn.Linear(16, CLASSES)
        if hold is not None:
            self.held = hold(self)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.b(torch.tanh(self.a(x)))
        return outputs if self.read is None else outputs + self.read(self.held).square().sum() * x[:, :CLASSES]


class Keeps(Net):
    """It stores what it computed, for a plot."""

    def forward(self, x: Tensor) -> Tensor:
        self.features = torch.tanh(self.a(x))
        self.all = [*getattr(self, "all", []), self.features]
        return self.b(self.features)


class Continues(Net):
    """Its next call depends on the last one."""

    before: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.a(x))
        if self.before is not None:
            hidden = hidden + self.before.mean()
        self.before = hidden
        return self.b(hidden)


class Holder:
    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def get(self) -> Tensor:
        return self.weight


class Slotted:
    __slots__ = ("weight",)

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight


class Uncopyable:
    def __deepcopy__(self, memo: object) -> None:
        raise RuntimeError("there is only one of me")


def changed(model: Net, change: Callable[[Any], object]) -> Net:
    change(model.a)
    return model


def nested(weights: list[Tensor]) -> Callable[[], Tensor]:
    def inner() -> Tensor:
        return weights[0]

    return lambda: inner()


def call(held: Callable[[], Tensor]) -> Tensor:
    return held()


def first(held: Any) -> Tensor:
    return held[0]


def weight(held: Any) -> Tensor:
    return held.weight


def itself(held: Any) -> Tensor:
    return held


def frozen(model: Net) -> list[nn.Module]:
    return [nn.Linear(3, 3).requires_grad_(False)]


def uncopied(model: Net) -> list[Any]:
    """What deepcopy refuses, and what it copies in an unusual way."""
    return [
        *(threading.Lock(), threading.RLock(), threading.Event(), threading.Thread(), {"deep": (threading.Lock(),)}),
        *(logging.getLogger("one"), logging.Logger("private"), sys.stdout, (number for number in range(3)), sys),
        *(lambda value: value, functools.partial(print, 1), torch.Generator(), contextvars.ContextVar("one")),
        *(type, int, socket.SocketType, torch.optim.Adam(model.parameters()), model.a, model.a.forward),
    ]


SERVED: dict[str, Callable[[], Net]] = {
    "a pruned layer": lambda: changed(Net(), lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5)),
    "old weight norm": lambda: changed(Net(), lambda layer: nn.utils.weight_norm(layer)),
    "a stored activation": Keeps,
    "what cannot be copied": lambda: Net(uncopied),
    "a frozen module in a list": lambda: Net(frozen, lambda held: held[0].weight),
    "a constant": lambda: Net(lambda net: torch.ones(3), itself),
    "parameters in a list": lambda: Net(lambda net: list(net.a.parameters()), first),
    "a parameter in a dict": lambda: Net(lambda net: {"w": net.a.weight}, lambda held: held["w"]),
    "a parameter in a tuple": lambda: Net(lambda net: (net.a.weight, 1), first),
    "a parameter in a tuple in a list": lambda: Net(lambda net: [(1, net.a.weight)], lambda held: held[0][1]),
    "a parameter in an object": lambda: Net(lambda net: Holder(net.a.weight), weight),
    "a parameter in a slot": lambda: Net(lambda net: Slotted(net.a.weight), weight),
    "a parameter in the object of a method": lambda: Net(lambda net: Holder(net.a.weight).get, call),
    "the model in a closure": lambda: Net(lambda net: lambda: net.a.weight, call),
    "a module in a partial function": lambda: Net(lambda net: functools.partial(getattr, net.a, "weight"), call),
    "a parameter in nested closures": lambda: Net(lambda net: nested([net.a.weight]), call),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*")
@pytest.mark.parametrize("name", SERVED)
def test_a_model_that_was_called_before_trains_as_torch_would_train_it(name: str):
    model = SERVED[name]()
    model(torch.ones(2, FEATURES)).sum().backward()  # a look at the shapes
    stated = problem(model)
    found = gradients(stated)
    expected = plain_gradients(model, stated)
    assert found.keys() == expected.keys()
    for parameter, gradient in found.items():
        torch.testing.assert_close(gradient, expected[parameter])


@pytest.mark.parametrize("name", ["a stored activation", "a parameter in a tuple", "a parameter in nested closures"])
def test_it_can_be_shipped(name: str):
    here, shipped = numbers_here_and_shipped(problem(SERVED[name]()))
    assert here == shipped


def test_the_users_model_is_not_changed():
    model = Keeps()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    stated = problem(model)
    list(engine.optimize(stated.bilevel(), stated.data, engine.Config(n_steps=1, inner=engine.Adam(), inner_steps=2)))
    assert not hasattr(model, "features")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


_net = Net()
_net.held, _net.read = (lambda: _net.a.weight), call

REFUSED: dict[str, tuple[Callable[[], Net], type[NestorError], str]] = {
    "parameters that only a list holds": (
        lambda: Net(lambda net: [nn.Parameter(torch.ones(3))], first),
        ParameterNotRegistered,
        r"model\.held\[0\].*nn\.ParameterList",
    ),
    "modules that only a dict holds": (
        lambda: Net(lambda net: {"head": nn.Linear(3, 3)}),
        ParameterNotRegistered,
        r"model\.held\['head'\]\.weight.*shape \(3, 3\).*nn\.ModuleList",
    ),
    "a tensor that wants a gradient": (
        lambda: Net(lambda net: torch.ones(3, requires_grad=True)),
        ParameterNotRegistered,
        r"model\.held ",
    ),
    "an activation of the last call": (Continues, AttributeOutdated, r"model\.before,.*in a buffer"),
    "a view of a parameter": (
        lambda: Net(lambda net: [net.a.weight.data], first),
        AttributeOutdated,
        r"model\.held\[0\],",
    ),
    "a part of a parameter": (lambda: Net(lambda net: net.a.weight[:2], itself), AttributeOutdated, r"model\.held,"),
    "a parameter in a partial function": (
        lambda: Net(lambda net: functools.partial(torch.square, net.a.weight), call),
        ParameterNotReplaceable,
        r"model\.held.*'a\.weight'",
    ),
    "a parameter in a set": (
        lambda: Net(lambda net: {net.a.weight}, lambda held: next(iter(held))),
        ParameterNotReplaceable,
        r"model\.held.*'a\.weight'",
    ),
    "the model as a global variable": (lambda: _net, ClosureReadsModel, r"model\.held.*'_net'"),
    "the model in a closure of a partial function": (
        lambda: Net(lambda net: functools.partial(lambda: net.a.weight), call),
        ClosureReadsModel,
        r"model\.held.*'net'",
    ),
    "an object that refuses to be copied": (
        lambda: changed(Net(), lambda layer: setattr(layer, "cache", {"k": Uncopyable()})),
        ModelNotCopyable,
        r"model\.a\.cache: RuntimeError: there is only one of me\. Create",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_be_trained_is_refused_by_its_path(name: str):
    make, error, words = REFUSED[name]
    model = make()
    model(torch.ones(2, FEATURES))
    stated = problem(model)
    with pytest.raises(error, match=words):
        gradients(stated)
    assert cast(Any, error).code() in {finding.code for finding in stated.check().errors}
