"""The entries that stand out are those of a full sort, also among equal entries and on other devices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nestor_engine.hparams import extremes
from nestor_engine.hparams.extremes import BLOCK, extreme_entries
from tests.engine.device import DEVICE

DEVICES = sorted({"cpu", DEVICE.type})


def by_sorting(scores: Tensor, k: int) -> set[int]:
    listed = scores.flatten().tolist()
    return set(sorted(range(len(listed)), key=lambda i: (not math.isnan(listed[i]), -listed[i], i))[:k])


def expected(value: Tensor, start: Tensor, gradient: Tensor | None, k: int) -> list[int]:
    scores = [(value.double() - start.double()).abs(), value, -value]
    if gradient is not None:
        scores.append(gradient.abs())
    return sorted(set[int]().union(*(by_sorting(score, k) for score in scores)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (33,), (BLOCK - 1,), (BLOCK,), (3, BLOCK + 7), (40, 7, 311)])
def test_they_are_those_of_a_full_sort(shape: tuple[int, ...], dtype: torch.dtype, device: str, monkeypatch):
    monkeypatch.setitem(extremes.CHUNK, device, 4 * BLOCK)
    value, start, gradient = (torch.randn(shape, dtype=torch.float64).to(device, dtype) for _ in range(3))
    for slope in (gradient, None):
        found = extreme_entries(value, start, slope, 8)
        assert found.tolist() == expected(value, start, slope, 8)
        assert (found.device.type, found.dtype) == (device, torch.int64)


@pytest.mark.parametrize("device", DEVICES)
def test_of_equal_entries_the_first_are_chosen(device: str):
    for n in (5 * BLOCK, 50 * BLOCK):  # by sorting all, and block by block
        for levels in (1, 2, 5):
            value, start, gradient = (torch.randint(levels, (n,)).float().to(device) for _ in range(3))
            assert extreme_entries(value, start, gradient, 32).tolist() == expected(value, start, gradient, 32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [40, 5 * BLOCK, 50 * BLOCK + 1])
@pytest.mark.parametrize("part", [0.001, 0.5, 1.0])
def test_what_is_not_a_number_comes_first_and_infinite_numbers_next(n: int, part: float, device: str):
    odd = torch.tensor([math.nan, math.inf, -math.inf])
    value, start, gradient = (
        torch.where(torch.rand(n) < part, odd[torch.randint(3, (n,))], torch.randn(n)).to(device) for _ in range(3)
    )
    assert extreme_entries(value, start, gradient, 8).tolist() == expected(value, start, gradient, 8)


def test_the_host_and_the_search_by_blocks_find_the_same(monkeypatch: pytest.MonkeyPatch):
    value, start, gradient = (torch.randn(7 * BLOCK).round(decimals=1) for _ in range(3))
    on_host = extreme_entries(value, start, gradient, 32)
    monkeypatch.setattr(extremes, "SMALL", 0)
    assert extreme_entries(value, start, gradient, 32).tolist() == on_host.tolist()


def test_a_change_is_compared_in_double_precision():
    """In single precision both changes are 1."""
    start = torch.tensor([0.0, 2.0**-30])
    value = torch.tensor([1.0, -1.0])
    assert extreme_entries(value, start, None, 1).tolist() == [0, 1]
    changes = (value.double() - start.double()).abs()
    assert changes[1] > changes[0]
    assert (value - start).abs().tolist() == [1.0, 1.0]
