"""Whether a hypergradient is true: its predictions against what retraining under other hyperparameters gives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import nestor
from benchmarks.truth import flat
from nestor.errors import ArgumentInvalid, CallInvalid, OptionOutOfRange
from nestor.results.trainings.ranks import interval, spearman
from nestor_engine import State, Step, optimize
from nestor_engine.hparams import L2, ExampleWeights
from nestor_engine.objective import Tensors
from nestor_engine.retraining import (
    Truth,
    changed_by,
    nudged,
    nudges,
    predicted,
    retrained,
    unmoved,
    with_predictions,
)

N, TRAINED = 24, 30  # examples; inner steps
KINDS = {
    "a decay per weight": lambda net: L2(net, per="weight", init=-3.0),
    "a decay per tensor": lambda net: L2(net, per="tensor", init=-3.0),
    "a weight per example": lambda net: ExampleWeights(N),
}
INNER = {"SGD": nestor.SGD(0.2, momentum=0.9), "Adam": nestor.Adam(0.02)}
WHOLE = {"n_steps": 1, "inner_steps": TRAINED, "response": nestor.Unrolled(TRAINED)}


def problem_of(kind: str = "a decay per weight") -> nestor.Problem:
    torch.manual_seed(0)
    x = torch.randn(2 * N, 3, dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long()
    net = nn.Sequential(nn.Linear(3, 6), nn.GELU(), nn.Linear(6, 2)).double()
    each = lambda out, batch: F.cross_entropy(out, batch["y"], reduction="none")
    mean = lambda out, batch: F.cross_entropy(out, batch["y"])
    return nestor.Problem(net, KINDS[kind](net), each, mean, train=(x[:N], y[:N]), val=(x[N:], y[N:]))


def config_of(**given: Any) -> nestor.Config:
    return nestor.Config(**{"batch_size": 8, "inner": INNER["SGD"], **WHOLE, **given})


def hypergradient_of(config: nestor.Config) -> Tensors:
    """That at the end of a training which it does not move."""
    problem = problem_of()
    *_, last = unmoved(problem.bilevel(), problem.data, config)
    return last.state.previous


# --- against what is known ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
@pytest.mark.parametrize("batch_size", [8, N])
def test_unrolling_the_whole_training_is_true(kind: str, inner: nestor.SGD, batch_size: int):
    """Its derivative is exact, so small changes come out in the order that it predicts, and of the predicted size."""
    config = config_of(inner=inner, batch_size=batch_size)
    found = nestor.truth(problem_of(kind), config, size=1e-3)
    assert found.score == 1.0
    assert found.real == pytest.approx(found.predicted, rel=1e-2, abs=1e-2 * max(map(abs, found.real)))
    assert found.sentence.startswith("The hypergradient predicts what retraining gives: its score over 20")


def test_a_hypergradient_of_the_wrong_sign_has_the_opposite_score():
    problem, config = problem_of(), config_of()
    bilevel, data = problem.bilevel(), problem.data
    changes = list(nudges(bilevel, 20, size=1e-3, seed=0))
    value = retrained(bilevel, data, config)
    wrong = predicted({name: -entry for name, entry in hypergradient_of(config).items()}, changes)
    real = tuple(retrained(changed_by(bilevel, change), data, config) - value for change in changes)
    found = Truth(value, tuple(wrong), real)
    assert found.score == -1.0
    assert found.sentence.startswith("The hypergradient does not predict what retraining gives")


def test_the_score_of_small_changes_is_near_the_cosine_with_the_true_hypergradient():
    short = config_of(n_steps=6, inner_steps=5, response=nestor.Unrolled(5))
    true, truncated = (hypergradient_of(config) for config in (config_of(), short))
    found = nestor.truth(problem_of(), short, retrainings=300, size=1e-3)
    cosine = float(F.cosine_similarity(flat(true), flat(truncated), dim=0))
    assert 0.2 < cosine < 0.98, "else this would show nothing"
    assert found.score == pytest.approx(cosine, abs=0.1)


def test_a_retraining_without_a_change_is_the_same_training():
    problem, config = problem_of(), config_of(n_steps=3, inner_steps=4, response=nestor.Implicit())
    bilevel, train = problem.bilevel(), problem.data.train
    fitted = nestor.fit(bilevel, train, n_steps=12, inner=config.inner, batch_size=8)
    plain = nestor.evaluate(bilevel, fitted.params, fitted.buffers, bilevel.hparams, problem.data.val)
    *_, last = unmoved(bilevel, problem.data, config)
    assert last.value == retrained(bilevel, problem.data, config) == plain["loss"]


def test_it_leaves_the_problem_as_it_was():
    problem = problem_of()
    before = {name: value.clone() for name, value in problem.model.state_dict().items()}
    nestor.truth(problem, config_of(folds=nestor.Folds(3), early_stopping=nestor.EarlyStopping()), retrainings=5)
    assert all(value.equal(before[name]) for name, value in problem.model.state_dict().items())


# --- the changes ----------------------------------------------------------------------------------


def test_nudges_are_normal_of_the_asked_size_and_functions_of_the_seed():
    bilevel = replace(problem_of().bilevel(), hparams={"a": torch.zeros(100_000)}, bounds={})
    first, second = (change["a"] for change in nudges(bilevel, 2, size=0.3, seed=1))
    assert float(first.std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(first.mean())) < 0.01
    assert not first.equal(second)
    assert next(nudges(bilevel, 1, size=0.3, seed=1))["a"].equal(first)
    assert not next(nudges(bilevel, 1, size=0.3, seed=2))["a"].equal(first)


def test_nudges_end_at_bounds():
    bilevel = replace(problem_of().bilevel(), hparams={"a": torch.zeros(100)}, bounds={"a": (-0.1, math.inf)})
    (change,) = nudges(bilevel, 1, size=1.0, seed=0)
    assert float(change["a"].min()) == pytest.approx(-0.1)
    assert float(change["a"].max()) > 1


def test_a_nudged_problem_begins_with_the_change_of_its_number():
    bilevel = problem_of().bilevel()
    *_, third = nudges(bilevel, 3, size=0.3, seed=1)
    changed = nudged(bilevel, 2, size=0.3, seed=1).hparams
    assert all(changed[name].equal(value + third[name]) for name, value in bilevel.hparams.items())
    assert nudged(bilevel, None, size=0.3, seed=1) is bilevel


def test_the_last_step_says_what_its_hypergradient_predicts():
    """Also if the training is continued from a state."""
    response = nestor.Implicit()
    config = config_of(n_steps=3, inner_steps=4, response=response)
    expected = predicted(hypergradient_of(config), nudges(problem_of().bilevel(), 100, size=0.3, seed=1))
    problem, frozen = problem_of(), config.model_copy(update={"response": nestor.Frozen(measured=response)})

    def steps(state: State | None) -> list[Step]:
        bilevel = problem.bilevel()
        return [*with_predictions(optimize(bilevel, problem.data, frozen, state), bilevel, 3, size=0.3, seed=1)]

    first = steps(None)
    for taken in (first, steps(first[1].state)):
        assert [step.predicted for step in taken[:-1]] == [{}] * (len(taken) - 1)
        assert taken[-1].predicted == {str(number): value for number, value in enumerate(expected)}


# --- the score and its sentence -------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30))
def test_the_rank_correlation_is_that_of_scipy_also_for_equal_values(pairs: list[tuple[int, int]]):
    a, b = ([float(value) for value in values] for values in zip(*pairs, strict=True))
    of_scipy: Any = scipy.stats.spearmanr
    expected = 0.0 if len({*a}) == 1 or len({*b}) == 1 else of_scipy(a, b).statistic
    assert spearman(a, b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("true", [0.0, 0.5, 0.9])
def test_the_interval_has_the_true_correlation_19_times_of_20(true: float):
    generator = torch.Generator().manual_seed(0)
    of_many = 6 / math.pi * math.asin(true / 2)  # the rank correlation of normal variables
    n, samples = 20, 1_000
    hits = 0
    for _ in range(samples):
        a, noise = torch.randn(2, n, generator=generator, dtype=torch.float64)
        low, high = interval(spearman(a.tolist(), (true * a + math.sqrt(1 - true**2) * noise).tolist()), n)
        hits += low <= of_many <= high
    assert hits / samples == pytest.approx(0.95, abs=0.025)


SIGNS = {1.0: "predicts what", 0.5: "predicts roughly what", 0.0: "does not predict what"}


@pytest.mark.parametrize(("score", "says"), SIGNS.items())
def test_each_grade_has_its_sentence(score: float, says: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Truth, "score", score)
    found = Truth(1.0, tuple(range(20)), tuple(range(20)))
    assert found.sentence.startswith(f"The hypergradient {says} retraining gives: its score over 20 retrainings is")
    assert ("Let the response reach" in found.sentence) == (score < 0.6)


def test_changes_within_rounding_say_nothing():
    found = Truth(2.0, (1e-9, 2e-9), (1e-7, -1e-7))
    assert not found.is_measurable
    assert "by less than its rounding, so this says nothing" in found.sentence


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"retrainings": 4}, OptionOutOfRange),
        ({"retrainings": 5.5}, ArgumentInvalid),
        ({"size": 0}, OptionOutOfRange),
        ({"size": math.nan}, ArgumentInvalid),
        ({"config": {"n_steps": 1}}, ArgumentInvalid),
        ({"config": config_of(response=nestor.Frozen())}, OptionOutOfRange),
        ({"problem": "digits"}, ArgumentInvalid),
        ({"repeats": 3}, CallInvalid),
    ],
)
def test_bad_input_is_named(wrong: dict[str, Any], error: type[Exception]):
    with pytest.raises(error, match=rf"nestor\.truth.*{next(iter(wrong))}"):
        nestor.truth(**{"problem": problem_of(), "config": config_of()} | wrong)
