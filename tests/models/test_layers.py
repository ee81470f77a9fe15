"""Layers of torch whose weights are computed from others are trained and shipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from tests.models.comparing import CLASSES, FEATURES, gradients, numbers_here_and_shipped, plain_gradients, problem

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*")


def model() -> nn.Sequential:
    torch.manual_seed(0)
    old: Any = nn.utils
    made = nn.Sequential(
        *(parametrizations.spectral_norm(nn.Linear(FEATURES, 6)), nn.Tanh()),
        *(parametrizations.weight_norm(nn.Linear(6, 6)), nn.Tanh()),
        *(parametrizations.orthogonal(nn.Linear(6, 5)), nn.Tanh()),
        *(parametrizations.orthogonal(nn.Linear(5, 5), orthogonal_map="cayley"), nn.Tanh()),
        *(parametrizations.orthogonal(nn.Linear(5, 5), orthogonal_map="matrix_exp"), nn.Tanh()),
        *(old.weight_norm(nn.Linear(5, 6)), nn.Tanh(), old.spectral_norm(nn.Linear(6, 4)), nn.Tanh()),
        *(nn.Unflatten(1, (2, 2)), parametrizations.spectral_norm(nn.Conv1d(2, 3, 1)), nn.Flatten()),
        nn.Linear(6, CLASSES),
    )
    prune.l1_unstructured(made[-1], "weight", amount=0.3)
    return made


def test_their_gradients_are_those_of_torch():
    made = model()
    for _ in range(200):  # the estimates of spectral norms converge, so that one more call does not change them
        made(torch.ones(2, FEATURES))
    stated = problem(made)
    found, expected = gradients(stated), plain_gradients(made, stated)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


def test_their_programs_compute_the_same():
    stated = problem(model())
    assert str(stated.check()) == "The problem is in order."
    here, shipped = numbers_here_and_shipped(stated)
    for left, right in zip(here, shipped, strict=True):
        assert left == pytest.approx(right, rel=1e-5)
