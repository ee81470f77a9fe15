"""A loss gets the object that the model returned, in this process and when its program is traced."""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict, UserDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from nestor.errors import ModelOutputInvalid, NotExportable
from nestor_engine.problem.model.outputs import Outputs, flattened, restored
from tests.models.comparing import CLASSES, FEATURES, numbers, numbers_here_and_shipped, problem


class Color(enum.Enum):
    red = 1


@dataclasses.dataclass
class Plain:
    logits: Tensor
    hidden: Any = None
    name: str = "a name"
    color: Color = Color.red


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    logits: Tensor
    hidden: tuple[Tensor, int] | None = None


class Named(NamedTuple):
    logits: Tensor
    n: int = 3


class Dotted(dict[str, Any]):
    __getattr__ = dict.__getitem__


class Ordered(OrderedDict[str, Any]):
    @property
    def logits(self) -> Tensor:
        return self["logits"]


class Secretive:
    __slots__ = ("__logits",)

    def __init__(self, logits: Tensor) -> None:
        self.__logits = logits

    @property
    def logits(self) -> Tensor:
        return self.__logits


class Cyclic:
    """It refers to itself, and keeps the batch size."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.me, self.rows = logits, self, logits.shape[0]
        self.again = [logits]


def categorical(logits: Tensor) -> torch.distributions.Categorical:
    return torch.distributions.Categorical(logits=logits, validate_args=False)


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "dataclass": lambda o: Plain(o, hidden=[o * 2, {"none": None}]),
    "frozen dataclass with slots": lambda o: Frozen(o, (o.mean(), 3)),
    "named tuple": Named,
    "dict with attributes": lambda o: Dotted(logits=o, hidden=[o + 1]),
    "ordered dict": lambda o: Ordered(logits=o),
    "mapping": lambda o: UserDict(logits=o),
    "hidden slot": Secretive,
    "object": Cyclic,
    "distribution": categorical,
    "objects in a tuple": lambda o: (Plain(o), Frozen(o)),
}


class Returns(nn.Module):
    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.form = nn.Linear(FEATURES, CLASSES), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.layer(x))


def logits_of(outputs: Any) -> Tensor:
    if type(outputs) is tuple:
        outputs = outputs[1]
    return outputs["logits"] if isinstance(outputs, UserDict) else getattr(outputs, "logits", outputs)


def loss(outputs: Any, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(logits_of(outputs), batch["y"])


@pytest.fixture(scope="module")
def expected() -> list[tuple[float, float]]:
    """The numbers of the model that returns the tensor itself, up to the constant that a distribution subtracts."""
    stated = problem(Returns(lambda o: o), loss)
    return numbers(stated.bilevel(), stated.data)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_of_the_outputs_does_not_change_the_training(name: str, expected: list[tuple[float, float]]):
    stated = problem(Returns(FORMS[name]), loss)
    for found, right in zip(numbers(stated.bilevel(), stated.data), expected, strict=True):
        assert found == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize("name", ["dataclass", "frozen dataclass with slots", "object", "distribution"])
def test_a_program_computes_what_the_loss_reads_of_an_object(name: str):
    stated = problem(Returns(FORMS[name]), loss)
    assert str(stated.check()) == "The problem is in order."
    here, shipped = numbers_here_and_shipped(stated)
    assert here == shipped


@pytest.mark.parametrize("name", FORMS)
def test_the_object_is_made_again_with_other_tensors(name: str):
    first, second = torch.ones(2, CLASSES), torch.zeros(2, CLASSES)
    flat = flattened(FORMS[name](first))
    leaves, spec = pytree.tree_flatten(flat)
    assert all(isinstance(leaf, Tensor) for leaf in leaves) or not isinstance(flat, Outputs)
    again = restored(pytree.tree_unflatten([second if leaf is first else leaf for leaf in leaves], spec))
    original = FORMS[name](first)
    assert type(again) is type(original)
    assert torch.equal(logits_of(again).softmax(1), second.softmax(1))


def test_other_attributes_keep_their_values():
    again = restored(flattened(Plain(torch.ones(1), name="mine")))
    assert again.name == "mine"
    assert again.color is Color.red
    cyclic = restored(flattened(Cyclic(torch.ones(5, 2))))
    assert cyclic.me is cyclic
    assert cyclic.again[0] is cyclic.logits


def test_an_object_without_a_tensor_is_refused():
    stated = problem(Returns(lambda o: Plain("none")), loss)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelOutputInvalid, match="returned a Plain"):
        numbers(stated.bilevel(), stated.data)


def test_a_number_that_follows_from_the_batch_size_cannot_be_shipped():
    stated = problem(Returns(lambda o: Plain(o, hidden=2 * o.shape[0] + 1)), loss)
    with pytest.raises(NotExportable, match="number computed from the batch size"):
        stated.export()
