"""The outer optimizer's learning rate by default: from the number of steps and the scale of each transform."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import nestor
import nestor_engine as engine
from nestor.errors import InnerRateMissing, OptionTypeWrong
from nestor_engine.hparams import L2, Custom, ExampleWeights
from tests.engine.cases import cross_entropy

N = 16


def problem() -> engine.Problem:
    """Hyperparameters with a logarithm, a logit, and a number that is used as it is."""
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    loss = lambda out, batch, hparams: cross_entropy(out + hparams["shift"], batch)
    x, y = torch.randn(N, 3), torch.arange(N) % 2
    kinds = [L2(net, per="tensor"), ExampleWeights(N), Custom({"shift": torch.zeros(2)})]
    return engine.Problem(net, kinds, loss, cross_entropy, train=(x, y), val=(x[:6], y[:6]))


def moved(**options: Any) -> dict[str, torch.Tensor]:
    """What the hyperparameters are at the end."""
    made = problem()
    config = engine.Config(inner=engine.SGD(0.1), evaluate_every=100, **options)
    *_, last = engine.optimize(made.bilevel(), made.data, config)
    return last.state.hparams


@pytest.mark.parametrize(("n_steps", "rate"), [(1, 0.3), (100, 0.3), (400, 0.2), (1_600, 0.1), (40_000, 0.02)])
def test_a_longer_training_goes_farther_in_smaller_steps(n_steps: int, rate: float):
    config = nestor.Config(n_steps=n_steps)
    assert [config.auto_rate(name) for name in ("exp", "sigmoid", "softplus")] == [pytest.approx(rate)] * 3
    assert config.auto_rate("identity") == pytest.approx(rate / 30)
    distances = [nestor.Config(n_steps=n).auto_rate("exp") * n for n in (1, 10, 100, 1_000, 10_000)]
    assert distances == sorted(distances)


def test_by_default_it_is_adam_with_rates_by_transform_that_fall_to_zero():
    n_steps = 8
    given = {
        name: nestor.Config(n_steps=n_steps).auto_rate(transform)
        for name, transform in (("l2", "exp"), ("example_weights", "sigmoid"), ("shift", "identity"))
    }
    assert given["l2"] == given["example_weights"] == 0.3
    assert given["shift"] == pytest.approx(0.01)
    explicit = engine.Adam(1.0, eps=1e-12, schedule=engine.LinearDecay(n_steps))
    usual, same = moved(n_steps=n_steps), moved(n_steps=n_steps, outer=explicit, outer_lr=given)
    for name, value in usual.items():
        assert torch.equal(value, same[name]), name


def test_a_schedule_and_rates_of_the_users_own_are_kept():
    config = nestor.Config(
        n_steps=100, outer=nestor.Adam("auto", schedule=nestor.Warmup(warmup=5)), outer_lr={"l2": 0.07}
    )
    outers = config.outers({"l2.0.weight": "exp", "shift": "identity"})
    assert outers["l2.0.weight"] == nestor.Adam(0.07, schedule=nestor.Warmup(warmup=5))
    assert outers["shift"] == nestor.Adam(0.3 / 30, schedule=nestor.Warmup(warmup=5))
    falling = nestor.Config(n_steps=100, outer_lr={"l2": 0.07}).outers({"l2": "exp"})["l2"]
    assert (falling.lr, falling.schedule) == (0.07, nestor.LinearDecay(100))
    constant = nestor.Config(n_steps=100, outer=nestor.Adam(0.07)).outers({"l2": "exp"})["l2"]
    assert constant == nestor.Adam(0.07)


def test_it_survives_json_and_only_the_outer_adam_has_it():
    config = nestor.Config(n_steps=3)
    assert nestor.Config(**json.loads(config.model_dump_json())) == config
    assert config.outer.lr == "auto"
    with pytest.raises(InnerRateMissing, match="for the outer optimizer; pass the inner"):
        nestor.Config(n_steps=3, inner=nestor.Adam("auto"))
    word: Any = "auto"
    bilevel, train = problem().bilevel(), problem().data.train
    with pytest.raises(InnerRateMissing, match="pass the inner optimizer a number"):
        nestor.fit(bilevel, train, n_steps=1, inner=nestor.Adam("auto"))
    for refused in (nestor.SGD, nestor.RMSprop, nestor.AdamW):
        with pytest.raises(OptionTypeWrong, match="it must be a number"):
            refused(word)


def test_entries_move_as_far_as_the_rates_say():
    """Each step of Adam moves an entry by at most about its rate, so that the sum bounds the way."""
    n_steps = 30
    start = problem().bilevel().hparams
    for name, value in moved(n_steps=n_steps).items():
        config = nestor.Config(n_steps=n_steps)
        farthest = config.auto_rate("identity" if name == "shift" else "exp") * (n_steps + 1) / 2
        assert 0 < float((value - start[name]).abs().max()) < 1.2 * farthest, name
