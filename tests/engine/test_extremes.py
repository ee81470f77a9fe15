"""The entries that stand out are those of a full sort, also among equal entries and on other devices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nestor_engine.hparams import extremes
from nestor_engine.hparams.extremes import BLOCK, extreme_entries

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def by_sorting(scores: Tensor, k: int) -> set[int]:
    listed = scores.flatten().tolist()
    return set(sorted(range(len(listed)), key=lambda i: (-listed[i], i))[:k])


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
    n = 50 * BLOCK
    for levels in (1, 2, 5):
        value, start, gradient = (torch.randint(levels, (n,)).float().to(device) for _ in range(3))
        assert extreme_entries(value, start, gradient, 32).tolist() == expected(value, start, gradient, 32)


def test_a_change_is_compared_in_double_precision():
    """In single precision both changes are 1."""
    start = torch.tensor([0.0, 2.0**-30])
    value = torch.tensor([1.0, -1.0])
    assert extreme_entries(value, start, None, 1).tolist() == [0, 1]
    changes = (value.double() - start.double()).abs()
    assert changes[1] > changes[0]
    assert (value - start).abs().tolist() == [1.0, 1.0]
