"""The fraction of entries that have moved is what one gets by looking at each in Python's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nestor_engine.hparams import TRANSFORMS, extremes
from nestor_engine.hparams.moved import MOVED, has_moved, moved_fraction, moved_fractions
from nestor_engine.hparams.on_host import on_host
from tests.engine.device import DEVICE

DEVICES = sorted({"cpu", DEVICE.type})
USED = {
    "identity": lambda x: x,
    "exp": math.exp,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "softplus": lambda x: math.log1p(math.exp(x)),
}


def oracle(value: Tensor, start: Tensor, transform: str) -> list[bool]:
    used, began = ([USED[transform](x) for x in of.double().flatten().tolist()] for of in (value, start))
    return [abs(a - b) > 0.1 * abs(b) for a, b in zip(used, began, strict=True)]


def test_there_is_a_case_for_each_transform():
    assert USED.keys() == TRANSFORMS.keys()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transform", USED)
@pytest.mark.parametrize("shape", [(), (1,), (33,), (7, 311), (3, extremes.BLOCK + 7)])
def test_it_is_the_fraction_of_those_that_differ_by_a_tenth_of_their_start(
    shape, transform, dtype, device, monkeypatch
):
    monkeypatch.setitem(extremes.CHUNK, device, 4 * 100)  # several parts, and a shorter last one
    start = torch.randn(shape, dtype=torch.float64)
    value = (start * (1 + 0.2 * torch.randn(shape, dtype=torch.float64))).to(device, dtype)
    start = start.to(device, dtype)
    expected = oracle(value, start, transform)
    assert moved_fraction(value, start, transform) == sum(expected) / len(expected)
    assert has_moved(value, start, transform).flatten().tolist() == expected


def test_many_small_tensors_are_counted_as_each_alone():
    transforms = {f"{transform} {n}": transform for n in (1, 2, 50, 1_000) for transform in USED} | {"bare": "identity"}
    starts = {name: torch.randn(int(name.partition(" ")[2] or 3)) for name in transforms}
    values = {name: start + 0.1 * torch.randn(start.shape) for name, start in starts.items()}
    declared = {name: transform for name, transform in transforms.items() if name != "bare"}
    found = moved_fractions(on_host(values), on_host(starts), declared)
    assert found == {name: moved_fraction(values[name], starts[name], transforms[name]) for name in transforms}
    assert moved_fractions({}, {}, {}) == {}


def test_from_zero_every_change_counts_and_no_change_never_does():
    start = torch.tensor([0.0, 0.0, -0.0, 5.0, -5.0, -5.0, 0.0])
    value = torch.tensor([0.0, 1e-30, 0.0, 5.0, -5.4, -5.6, -1e-30])
    assert has_moved(value, start, "identity").tolist() == [False, True, False, False, False, True, True]
    assert not has_moved(start, start, "exp").any()
    assert MOVED == 0.1


def test_what_is_not_a_number_has_moved_and_an_infinite_start_has_not_until_it_changes():
    odd = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    assert has_moved(odd, odd, "identity").tolist() == [True, False, False, False]
    assert has_moved(odd, torch.ones(4), "identity").tolist() == [True, True, True, False]


def test_large_values_are_compared_after_the_transform():
    """exp(−6) to exp(−5.9) is 10.5 %; before the transform it is 1.7 %."""
    start, value = torch.tensor([-6.0, -6.0]), torch.tensor([-5.9, -5.91])
    assert has_moved(value, start, "exp").tolist() == [True, False]
    assert not has_moved(value, start, "identity").any()


def test_nothing_as_large_as_the_tensor_is_made_and_nothing_is_changed():
    start = torch.randn(2**20, dtype=torch.float64)
    value = start.clone()
    largest: list[int] = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and not result._is_view() and result is not args[0]:
                largest.append(result.numel())
            return result

    before = torch.random.get_rng_state()
    with Watching():
        moved_fraction(value.view(2**10, -1), start.view(2**10, -1), "identity")
    assert 0 < max(largest) <= extremes.CHUNK["cpu"]
    assert np.array_equal(value.numpy(), start.numpy())
    assert torch.equal(before, torch.random.get_rng_state())


def test_of_no_entries_none_has_moved():
    """A kind of hyperparameter that a user writes may have a tensor without entries."""
    assert moved_fraction(torch.zeros(0), torch.zeros(0), "exp") == 0.0
    values, starts = ({"none": np.zeros(0), "two": np.full(2, x), "last": np.zeros(0)} for x in (1.0, 0.0))
    assert moved_fractions(values, starts, {}) == {"none": 0.0, "two": 1.0, "last": 0.0}
