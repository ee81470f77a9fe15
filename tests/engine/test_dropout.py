"""A tuned rate drops as much as dropout on average, and only in training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor_engine.hparams import Dropout
from nestor_engine.tensors.random import randomness
from tests.engine.cases import SEED, cross_entropy, whole
from tests.engine.device import DEVICE


class Twice(nn.Module):
    """One dropout layer under two names, of a model that must stay as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Dropout(0.25)
        self.second = self.first
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.second(torch.tanh(self.first(x))))


class Scale(nn.Module):
    """The smallest trainable model."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def _mean_output(model: nn.Module, rate: float, shape: tuple[int, ...]) -> Tensor:
    """The model's output for ones in training mode, at a rate close to dropout's own draws."""
    kind = Dropout(model, init=rate, temperature=0.01)
    x = torch.ones(shape)
    one = lambda outputs, batch: outputs.mean()
    bilevel = engine.Problem(model, kind, one, one, train={"x": x}, val={"x": x}).bilevel()
    values = bilevel.values(bilevel.hparams)
    with randomness(SEED, DEVICE):
        return bilevel.forward(bilevel.params, bilevel.buffers, values, whole({"x": x}))[0].detach()


def test_concrete_dropout_drops_its_rate_and_keeps_the_mean():
    model = nn.Sequential(nn.Dropout(0.1), Scale())
    out = _mean_output(model, 0.3, (200, 100))
    assert (out < 0.5).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)


def test_channel_dropout_drops_whole_channels():
    out = _mean_output(nn.Sequential(nn.Dropout2d(0.5), Scale()), 0.5, (20, 10, 3, 3)).flatten(2)
    assert torch.equal(out, out[..., :1].expand_as(out))
    assert not torch.equal(out[:, :1].expand_as(out), out)


def test_evaluation_drops_nothing_and_the_model_itself_stays_as_it_is():
    model = Twice()
    kind = Dropout(model)
    assert kind.init["dropout"].sigmoid().tolist() == pytest.approx([0.25])
    x, y = data = torch.randn(14, 5), torch.arange(14) % 3
    bilevel = engine.Problem(model, kind, cross_entropy, cross_entropy, train=data, val=data).bilevel()
    batch, hparams = whole({"x": x, "y": y}), bilevel.values(bilevel.hparams)
    values = [bilevel.val_loss_at(bilevel.params, {}, hparams, batch) for _ in range(2)]
    expected = F.cross_entropy(model.linear(torch.tanh(x)), y)
    assert values[0] == values[1]
    torch.testing.assert_close(values[0], expected)
    assert type(model.first) is nn.Dropout
    assert model.second is model.first


def test_a_global_rate_starts_at_the_mean_of_the_layers():
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(2, 2), nn.Dropout(0.2))
    assert Dropout(model, per="global").init["dropout"].sigmoid().item() == pytest.approx(0.2)
    assert Dropout(model).init["dropout"].shape == (2,)
