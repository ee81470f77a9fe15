"""Columns are given to forward by position or by the names of its arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestor.errors import ArgumentInvalid, ColumnNotFound, InputMissing, InputsTooMany, InputUnknown
from tests.models.comparing import CLASSES, FEATURES, numbers, numbers_here_and_shipped, problem


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layer(x * mask)


class Between(Masked):
    def forward(self, x: Tensor, cache: object = None, mask: Tensor | None = None) -> Tensor:
        assert cache is None, "a column was taken for another argument"
        return super().forward(x, torch.ones_like(x) if mask is None else mask)


class KeywordOnly(Masked):
    def forward(self, *, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x, mask)


class PositionOnly(Masked):
    def forward(self, x: Tensor, mask: Tensor, /) -> Tensor:
        return super().forward(x, mask)


class AnyNames(Masked):
    def forward(self, *args: Tensor, **named: Tensor) -> Tensor:
        return super().forward(*args, **named)


BY_NAME = {"mask": "mask", "x": "x"}


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Masked, ("x", "mask")),
        (Masked, BY_NAME),
        (Between, BY_NAME),
        (KeywordOnly, BY_NAME),
        (PositionOnly, BY_NAME),
        (PositionOnly, ["x", "mask"]),
        (AnyNames, BY_NAME),
        (AnyNames, ("x", "mask")),
        (lambda: nn.DataParallel(Between()), BY_NAME),
    ],
)
def test_a_column_arrives_at_its_argument(model: Any, inputs: Any):
    expected = problem(Masked(), inputs=("x", "mask"))
    given = problem(model(), inputs=inputs)
    assert numbers(given.bilevel(), given.data) == numbers(expected.bilevel(), expected.data)


def test_a_program_reads_the_columns_that_were_given_by_name():
    here, shipped = numbers_here_and_shipped(problem(Between(), inputs=BY_NAME))
    assert here == shipped


def test_a_column_may_be_given_to_several_arguments():
    assert problem(Masked(), inputs={"x": "x", "mask": "x"}).inputs == ("x", "x")


@pytest.mark.parametrize(
    ("model", "inputs", "error", "words"),
    [
        (Masked, {"x": "x", "maks": "mask"}, InputUnknown, r"no argument 'maks'; its arguments are 'x', 'mask'"),
        (Masked, {"x": "x"}, InputMissing, r"requires the argument 'mask'.*'x', 'mask'"),
        (Masked, "x", InputMissing, "requires the argument 'mask'"),
        (KeywordOnly, ("x", "mask"), InputsTooMany, r"names 2 columns by position.*'x', 'mask'"),
        (KeywordOnly, {"x": "x"}, InputMissing, "requires the argument 'mask'"),
        (Between, ("x", "y", "mask", "mask"), InputsTooMany, r"names 4 columns"),
        (AnyNames, {"x": "features"}, ColumnNotFound, "'features'"),
        (Masked, {"x": 3}, ArgumentInvalid, "inputs is"),
        (Masked, {}, ArgumentInvalid, "inputs is"),
        (Masked, [], ArgumentInvalid, "inputs is"),
        (Masked, 3, ArgumentInvalid, "inputs is 3"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(model: Any, inputs: Any, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        problem(model(), inputs=inputs)
