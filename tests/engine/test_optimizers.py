"""Our optimizers take the steps of torch.optim's."""

from __future__ import annotations

import pytest
import torch

import nestor_engine as engine

F64 = torch.float64
PAIRS = {
    "SGD": (engine.SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "SGD, momentum": (engine.SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "SGD, Nesterov, decay": (
        engine.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "Adam": (engine.Adam(0.05), lambda p: torch.optim.Adam(p, 0.05)),
    "Adam, decay": (
        engine.Adam(0.05, betas=(0.8, 0.99), weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.05, betas=(0.8, 0.99), weight_decay=0.1),
    ),
    "RMSprop": (engine.RMSprop(0.05), lambda p: torch.optim.RMSprop(p, 0.05)),
    "RMSprop, momentum": (
        engine.RMSprop(0.05, alpha=0.9, momentum=0.5, weight_decay=0.01),
        lambda p: torch.optim.RMSprop(p, 0.05, alpha=0.9, momentum=0.5, weight_decay=0.01),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_twenty_steps_are_those_of_torch(name: str):
    ours, make = PAIRS[name]
    target = torch.linspace(-1, 1, 6, dtype=F64)
    x = torch.zeros(6, dtype=F64)
    theirs = torch.zeros(6, dtype=F64, requires_grad=True)
    optimizer, slots = make([theirs]), ours.init(x)
    for _ in range(20):
        optimizer.zero_grad()
        (theirs - target).pow(4).sum().backward()
        optimizer.step()
        x, slots = ours.update(x, 4 * (x - target).pow(3), slots)
    torch.testing.assert_close(x, theirs.detach())


@pytest.mark.parametrize("name", PAIRS)
def test_an_update_writes_into_none_of_its_arguments(name: str):
    ours, _ = PAIRS[name]
    x, gradient = torch.ones(3), torch.ones(3)
    slots = ours.init(x)
    kept = {key: value.clone() for key, value in slots.items()}
    ours.update(x, gradient, slots)
    assert x.eq(1).all()
    assert gradient.eq(1).all()
    assert all(torch.equal(slots[key], kept[key]) for key in slots)


def test_options_that_cannot_work_are_refused_with_a_remedy():
    with pytest.raises(engine.errors.ConfigInvalid, match="learning rate must be positive"):
        engine.Adam(0.0)
    with pytest.raises(engine.errors.ConfigInvalid, match=r"momentum=0\.9"):
        engine.SGD(0.1, nesterov=True)
