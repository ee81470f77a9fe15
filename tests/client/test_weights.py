"""A checkpoint's tensors are copied into a module by name, all of them or none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import nestor_engine as engine
from nestor.errors import InvalidInput
from nestor.results import weights
from tests.engine.test_checkpoint import DownUp, UpDown, in_format_2, last, normed, seeded


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.tanh(self.first(x)))


def named(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_weights_land_by_name_in_a_model_that_declares_its_layers_in_another_order():
    state = last(seeded(UpDown))
    for model in (UpDown(), DownUp()):
        assert weights.load(state.save(), model) == state.step
        assert same(named(model), state.params)


@pytest.mark.parametrize("make", [Tied, normed])
def test_tied_weights_and_buffers_come_along(make):
    state, model = last(seeded(make)), make()
    weights.load(state.save(), model)
    found = dict(model.named_parameters()) | dict(model.named_buffers())
    assert same({name: value.detach() for name, value in found.items()}, state.params | state.buffers)


def test_a_layer_may_be_frozen_on_either_side():
    model = seeded(UpDown)
    model.down.requires_grad_(False)
    state, other = last(model), UpDown().requires_grad_(False)
    weights.load(state.save(), other)
    assert same(named(other), {**state.params, **state.buffers})


REFUSED = {
    "another shape": (lambda: nn.Linear(4, 6), lambda: nn.Linear(6, 4), r"'weight' has the shape \(6, 4\)"),
    "missing": (lambda: nn.Linear(4, 4), UpDown, "lacks the tensor 'up.weight' of the model"),
    "unexpected": (lambda: nn.Linear(4, 4), lambda: nn.Linear(4, 4, bias=False), "holds a tensor 'bias', which"),
    "unexpected buffer": (normed, lambda: normed(running=False), "holds a tensor '1.num_batches_tracked'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_model_is_refused_naming_the_first_difference_and_stays_as_it_is(name: str):
    of, into, sentence = REFUSED[name]
    model = into()
    before = named(model)
    with pytest.raises(InvalidInput, match=sentence):
        weights.load(last(seeded(of)).save(), model)
    assert same(named(model), before)


def test_of_format_2_weights_are_taken_by_position_and_counted():
    state, model = last(seeded(normed)), normed()
    weights.load(in_format_2(state), model)
    assert same({name: value.detach() for name, value in model.named_parameters()}, state.params)
    with pytest.raises(InvalidInput, match="it holds 48 weights, and 40 of this model require gradients"):
        weights.load(in_format_2(state), UpDown())
    with pytest.raises(InvalidInput, match=r"holds a tensor '1\.num_batches_tracked'"):
        weights.load(in_format_2(state), normed(running=False))


def test_an_invalid_checkpoint_is_refused_with_an_error_message():
    with pytest.raises(InvalidInput, match="cannot be read"):
        weights.load(b"not a checkpoint", UpDown())
    assert issubclass(engine.errors.CheckpointFormatUnknown, engine.errors.StateInvalid)
