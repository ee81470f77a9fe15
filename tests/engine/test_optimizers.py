"""Our optimizers take the steps of torch.optim's."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

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
    "AdamW": (
        engine.AdamW(0.05, weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.3),
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
    optimizer, state = make([theirs]), ours.init(x)
    for k in range(20):
        optimizer.zero_grad()
        (theirs - target).pow(4).sum().backward()
        optimizer.step()
        (gradient,) = ours.clip([4 * (x - target).pow(3)])
        x, state = ours.step(x, gradient, state, k)
    torch.testing.assert_close(x, theirs.detach())


@pytest.mark.parametrize("name", PAIRS)
def test_an_update_writes_into_none_of_its_arguments(name: str):
    ours, _ = PAIRS[name]
    x, gradient = torch.ones(3), torch.ones(3)
    state = ours.init(x)
    kept = {key: value.clone() for key, value in state.items()}
    ours.step(x, gradient, state, 0)
    assert x.eq(1).all()
    assert gradient.eq(1).all()
    assert all(torch.equal(state[key], kept[key]) for key in state)


@pytest.mark.parametrize("name", PAIRS)
def test_a_move_is_an_update_in_place(name: str):
    ours, _ = PAIRS[name]
    x, gradient = torch.linspace(-1, 1, 3), torch.linspace(2, 1, 3)
    state = ours.init(x)
    for k in range(3):
        updated, state_after = ours.step(x, gradient, state, k)
        ours.step_(x, gradient, state, k)
        assert torch.equal(x, updated)
        assert all(torch.equal(state[key], state_after[key]) for key in state)


SCHEDULES = {
    "step decay": (engine.StepDecay(4, 0.5), lambda o: lr_scheduler.StepLR(o, 4, 0.5)),
    "linear decay": (engine.LinearDecay(10, 0.2), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, 10)),
    "cosine decay": (engine.CosineDecay(20, 0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 20, 0.1 * 0.1)),
    "warm-up": (engine.Warmup(warmup=5), lambda o: lr_scheduler.LinearLR(o, 1 / 5, 1.0, 4)),
    "warm-up, then cosine": (
        engine.CosineDecay(10, warmup=4),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 1 / 4, 1.0, 3), lr_scheduler.CosineAnnealingLR(o, 10)], [4]
        ),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # SequentialLR calls its parts so
def test_schedules_are_those_of_torch(name: str):
    schedule, make = SCHEDULES[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    theirs = make(optimizer)
    ours = engine.SGD(0.1, schedule=schedule)
    for k in range(14):
        assert ours.rate(k) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_gradients_are_clipped_together_as_torch_clips_them():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    theirs = [torch.zeros_like(g, requires_grad=True) for g in gradients]
    for parameter, gradient in zip(theirs, gradients, strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(theirs, 2.0)
    for ours, parameter in zip(engine.SGD(clip_norm=2.0).clip(gradients), theirs, strict=True):
        torch.testing.assert_close(ours, parameter.grad)
    assert engine.SGD(clip_norm=6.0).clip(gradients)[0].tolist() == [3.0, 0.0]


def test_a_gradient_of_zero_is_clipped_with_a_finite_derivative():
    """What `Unrolled` differentiates if nothing reaches the weights."""
    zero = torch.zeros(3, requires_grad=True)
    (clipped,) = engine.SGD(clip_norm=1.0).clip([zero])
    assert clipped.tolist() == [0.0, 0.0, 0.0]
    (slope,) = torch.autograd.grad(clipped.sum(), zero)
    assert slope.tolist() == [1.0, 1.0, 1.0]


def test_options_that_cannot_work_are_refused_with_a_remedy():
    with pytest.raises(engine.errors.ConfigInvalid, match=r"Adam\(lr=0.0\): it must be above 0"):
        engine.Adam(0.0)
    with pytest.raises(engine.errors.ConfigInvalid, match=r"momentum=0\.9"):
        engine.SGD(0.1, nesterov=True)
    with pytest.raises(engine.errors.ConfigInvalid, match="clip_norm=-1"):
        engine.SGD(0.1, clip_norm=-1)
    with pytest.raises(engine.errors.ConfigInvalid, match="CosineDecay"):
        engine.SGD(0.1, schedule=lambda k: 1.0)
    with pytest.raises(engine.errors.ConfigInvalid, match=r"StepDecay\(every=0\): it must be at least 1"):
        engine.StepDecay(0)
