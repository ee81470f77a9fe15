"""Quantiles and histograms of hyperparameters against numpy in float64."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nestor.schemas.steps import MAX_BINS, QUANTILES, Distribution
from nestor_engine.hparams import distributions as module
from nestor_engine.hparams.distributions import NARROWEST, RESOLVED, TINY, distributions
from nestor_engine.hparams.on_host import SMALL
from tests.engine.device import DEVICE

MANY = 3 * SMALL
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def of(values: Tensor) -> Distribution:
    return distributions({"one": values.to(DEVICE)})["one"]


def exact(values: Tensor) -> np.ndarray:
    """The finite entries, in order, as float64."""
    entries = values.double().cpu().numpy().ravel()
    return np.sort(entries[np.isfinite(entries)])


def expect_histogram(found: Distribution, values: Tensor) -> None:
    """Each entry is counted in the bin that has it, in exact arithmetic, and the grid is the finest one."""
    entries, width = exact(values), Fraction(found.width)
    entries[np.abs(entries) <= np.abs(entries).max() * TINY] = 0.0
    assert math.frexp(found.width)[0] == 0.5  # a power of two
    bins, counts = np.unique(np.floor(entries / found.width), return_counts=True)
    expected = dict(zip(map(int, bins), map(int, counts), strict=True))
    assert {found.first + i: count for i, count in enumerate(found.counts) if count} == expected
    assert found.counts[0] > 0 < found.counts[-1]
    assert len(found.counts) <= MAX_BINS
    low, high = Fraction(float(entries[0])), Fraction(float(entries[-1]))
    if found.width > max(NARROWEST, float(max(-low, high)) * 2.0**-52) * 2 * module.PARTS:
        assert high // (width / 2) - low // (width / 2) >= MAX_BINS


def normal(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def uniform(n: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


CASES = {
    "normal": normal,
    "far from zero": lambda n: normal(n) * 1e-3 + 1e3,
    "whole numbers at edges": lambda n: (normal(n) * 3).round(),
    "heavy tails": lambda n: (normal(n) / uniform(n) ** 3).float(),
    "most entries equal": lambda n: torch.where(uniform(n) < 0.02, normal(n) * 1e6, torch.ones(n)),
    "two crowds": lambda n: torch.where(uniform(n) < 0.5, normal(n) - 1e6, normal(n) * 1e-3),
    "one far entry": lambda n: normal(n).index_put((torch.tensor([0]),), torch.tensor(3e38)),
    "clamped": lambda n: normal(n).clamp(-0.5, 0.25),
    "nearly equal": lambda n: 1 + normal(n, torch.float64) * 1e-15,
    "largest floats": lambda n: normal(n, torch.float64).clamp(-1, 1) * 1.7e308,
    "not all finite": lambda n: (
        torch.where(uniform(n) < 0.1, torch.where(uniform(n) < 0.05, math.nan, -math.inf), 1.0) * normal(n).abs()
    ),
}


@pytest.mark.parametrize("n", [2, 100, SMALL, SMALL + 1, MANY])
@pytest.mark.parametrize("case", CASES)
def test_quantiles_and_counts_are_those_of_numpy(case, n):
    values = CASES[case](n)
    entries = exact(values)
    found = of(values)
    expect_histogram(found, values)
    expected = np.quantile(entries * 0.5, [q / 100 for q in QUANTILES]) * 2  # halved: numpy's differences overflow
    rounding = 1e-12 * max(abs(entries[0]), abs(entries[-1])) if n <= SMALL else 2.0**-50 * np.abs(expected).max()
    allowed = 0.0 if n <= SMALL else (expected[-2] / 2 - expected[1] / 2) / RESOLVED * 2
    assert np.abs(np.array(found.quantiles) / 2 - expected / 2).max() <= allowed + rounding
    assert (found.quantiles[0], found.quantiles[-1]) == (entries[0], entries[-1])
    assert list(found.quantiles) == sorted(found.quantiles)


@pytest.mark.parametrize("n", [100, MANY])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_dtype_is_counted_without_error(dtype, n):
    values = normal(n, dtype) * 100
    expect_histogram(of(values), values)


@pytest.mark.parametrize("n", [2, MANY])
def test_equal_entries_are_one_bin(n):
    for value in (0.0, -0.0, 1.0, -3e-7, 1e30):
        found = of(torch.full((n,), value))
        assert found.counts == (n,)
        assert set(found.quantiles) == {torch.tensor(value).item() + 0.0}
        assert found.first * found.width <= found.quantiles[0] < (found.first + 1) * found.width


def test_what_has_one_entry_or_none_that_is_finite_has_no_distribution():
    values = {"one": torch.ones(()), "nan": torch.full((5,), math.nan), "many": torch.full((MANY,), math.inf)}
    assert distributions(values | {"two": torch.ones(2)}).keys() == {"two"}


@settings(max_examples=150, deadline=None)
@example([5.5e14, -2.2e-311], True)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64), min_size=2, max_size=70), st.booleans())
def test_any_entries_are_counted_as_exact_arithmetic_does(entries, repeat):
    values = torch.tensor(entries, dtype=torch.float64)
    values = values.repeat(SMALL) if repeat else values  # by counting, or by sorting
    found = distributions({"one": values}).get("one")
    assert (found is None) == (not len(exact(values)))
    if found is not None:
        expect_histogram(found, values)


@pytest.mark.parametrize("n", [100, MANY])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("large", [-3e38, 3e38])
@pytest.mark.parametrize("small", [-1e-45, 1e-45])
def test_entries_whose_quotient_underflows_are_counted_as_zero(small, large, dtype, n):
    for few in ([0], range(1, n)):  # so that the quantiles, too, are read from these or those
        values = torch.full((n,), small, dtype=dtype)
        values[few] = large
        found = of(values)
        expect_histogram(found, values)
        assert {found.quantiles[0], found.quantiles[-1]} == {values.min().item(), values.max().item()}


def joined(one: Distribution, other: Distribution) -> tuple[int, float, list[int]]:
    """Both histograms as one, as the description of `Distribution` says."""
    parts = []
    width = max(one.width, other.width)
    for part in (one, other):
        counts = {part.first + i: count for i, count in enumerate(part.counts)}
        for _ in range(round(math.log2(width / part.width))):
            doubled: dict[int, int] = {}
            for place, count in counts.items():
                doubled[place // 2] = doubled.get(place // 2, 0) + count
            counts = doubled
        parts.append(counts)
    places = range(min(map(min, parts)), max(map(max, parts)) + 1)
    return places[0], width, [sum(part.get(place, 0) for part in parts) for place in places]


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_histograms_of_two_steps_are_joined_without_error(scale, shift):
    before, after = normal(300), normal(300).flip(0) * scale + shift
    first, width, counts = joined(of(before), of(after))
    both = np.floor(exact(torch.cat([before, after])) / width).astype(int) - first
    assert counts == np.bincount(both, minlength=len(counts)).tolist()


@pytest.mark.parametrize("case", CASES)
def test_counting_and_sorting_find_the_same_histogram(case, monkeypatch):
    values = CASES[case](SMALL)
    by_sorting = of(values)
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(module, "CHUNK", 1000)  # so that there are several
    assert of(values).model_copy(update={"quantiles": by_sorting.quantiles}) == by_sorting


def test_hyperparameters_stay_as_they_are():
    values = {"small": normal(100), "large": normal(MANY), "matrix": normal(MANY).reshape(3, -1).T}
    before = {name: value.clone() for name, value in values.items()}
    found = distributions(values)
    assert all(torch.equal(values[name], before[name]) for name in values)
    assert sum(found["matrix"].counts) == MANY
    assert list(found) == list(values)
