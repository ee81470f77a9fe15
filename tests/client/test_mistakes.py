"""Both backends refuse invalid arguments with one error message, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

import nestor
from nestor import Client, Study, Trial
from nestor.errors import ConfigInvalid, InvalidInput
from nestor.schemas import TrialCreate, build
from tests.client.problems import ridge

SOME = UUID("12345678-1234-5678-1234-567812345678")

NEW_STUDY = {
    "empty name": ({"name": ""}, "name='': it must have 1 to 200 characters"),
    "long name": ({"name": "x" * 10_000}, "name='xxx.*…: it must have 1 to 200 characters"),
    "name of another type": ({"name": 5}, "name=5: it must be a string"),
    "tags in one string": ({"tags": "abc"}, "tags='abc': it must be a list"),
    "no tags": ({"tags": 5}, "tags=5: it must be a list"),
    "two wrong tags": ({"tags": ["", 1]}, "tags.0='': it must have 1 to .* tags.1=1: it must be a string"),
    "user_attrs": ({"user_attrs": 5}, "User attributes must be what JSON can hold"),
    "load_if_exists": ({"load_if_exists": "perhaps"}, "load_if_exists='perhaps': it must be True or False"),
}

# Options as functions: the engine's own classes refuse some values when they are made.
OPTIONS = {
    "terms": (
        lambda: {"response": nestor.Implicit(nestor.GaussNewton(), nestor.Neumann(terms=20_000))},
        "response.solver.terms=20000: it must be at least 0 and at most 10000",
    ),
    "terms of a warm start": (
        lambda: {"response": nestor.Implicit(solver=nestor.WarmStarted(nestor.Neumann(terms=20_000)))},
        "response.solver.solver.terms=20000: it must be at least 0 and at most 10000",
    ),
    "alpha": (
        lambda: {"response": nestor.Implicit(solver=nestor.Neumann(alpha=float("inf")))},
        "response.solver.alpha=inf: it must be a finite number, above 0, or 'auto'",
    ),
    "damping": (
        lambda: {"response": nestor.Implicit(nestor.GaussNewton(damping=float("inf")))},
        "response.curvature.damping=inf: it must be a finite number, at least 0",
    ),
    "rank": (lambda: {"response": nestor.Hypernetwork(rank=20_000)}, "response.rank=20000: .* at most 10000"),
    "priority": (lambda: {"priority": 5000}, "priority=5000: it must be at least -1000 and at most 1000"),
    "priority in words": (lambda: {"priority": "high"}, "priority='high': it must be a whole number, at least -1000"),
    "part of a priority": (lambda: {"priority": 1.5}, "priority=1.5: it must be a whole number"),
    "evaluate_every": (lambda: {"evaluate_every": 2**31}, "evaluate_every=2147483648: .* at most 2147483647"),
    "half a step": (lambda: {"evaluate_every": 2.5}, "evaluate_every=2.5: it must be a whole number, at least 1"),
    "n_steps": (lambda: {"n_steps": 2**31}, "n_steps=2147483648: it must be at least 1 and at most 2147483647"),
    "n_steps in words": (lambda: {"n_steps": "5"}, "n_steps='5': it must be a whole number, at least 1"),
    "warmup_steps": (lambda: {"warmup_steps": -1}, "warmup_steps=-1: it must be at least 0"),
    "seed": (lambda: {"seed": -1}, "seed=-1: it must be at least 0 and below 9223372036854775808"),
    "no seed": (lambda: {"seed": None}, "seed=None: it must be a whole number"),
    "no device": (lambda: {"devices_per_trial": 0}, "devices_per_trial=0: it must be at least 1 and at most 1024"),
    "devices in words": (lambda: {"devices_per_trial": "two"}, "devices_per_trial='two': it must be a whole number"),
    "one outer_lr": (lambda: {"outer_lr": 0.1}, "outer_lr=0.1: pass learning rates by hyperparameter"),
    "outer_lr": (lambda: {"outer_lr": {"l2": float("inf")}}, "outer_lr.l2=inf: it must be a finite number, above 0"),
    "outer_lr in words": (lambda: {"outer_lr": {"l2": "fast"}}, r"outer_lr\['l2'\]='fast': .* must be positive"),
    "outer_lr by number": (lambda: {"outer_lr": {1: 0.1}}, "outer_lr.1: the name 1 must be a string"),
    "lr in words": (lambda: {"inner": nestor.Adam("fast")}, r"Adam\(lr='fast'\): .* must be positive"),
    "trace": (lambda: {"trace": "maybe"}, "trace='maybe': it must be True or False"),
    "autocast": (lambda: {"autocast": "float16"}, "autocast='float16': choose 'bfloat16'"),
    "warm_start": (lambda: {"warm_start": SOME}, "warm_start=UUID.*: it must be a WarmStart"),
    "warm_start's trial": (lambda: {"warm_start": nestor.WarmStart(trial="x")}, "trial='x': it must be a UUID"),
    "warm_start's step": (lambda: {"warm_start": nestor.WarmStart(trial=SOME, step=-1)}, "step=-1: .* at least 0"),
    "misspelt option": (lambda: {"warm_start": nestor.WarmStart(trial=SOME, wieghts=1)}, "wieghts: there is no such"),
    "missing option": (lambda: {"warm_start": nestor.WarmStart()}, "trial is missing"),
    "betas": (lambda: {"inner": nestor.Adam(betas=(0.9, 1.5))}, "inner.betas.1=1.5: it must be at least 0 and below 1"),
    "momentum": (lambda: {"inner": nestor.SGD(momentum=1.0)}, "inner.momentum=1.0: it must be at least 0 and below 1"),
    "inner steps": (lambda: {"inner": nestor.Adam(steps=2**31)}, "inner.steps=2147483648: it must be at least 1"),
    "outer steps": (
        lambda: {"n_steps": 2, "outer": nestor.Adam(0.1, steps=50)},
        "its steps=50 contradicts n_steps=2. n_steps is the number of outer steps. Leave steps out",
    ),
    "schedule": (
        lambda: {"inner": nestor.Adam(schedule=nestor.CosineDecay(steps=2**31))},
        "inner.schedule.steps=2147483648: it must be at least 1",
    ),
    "folds": (lambda: {"folds": nestor.Folds(100_000)}, "folds.count=100000: it must be at least 2 and at most 1000"),
    "patience": (lambda: {"stop_early": nestor.EarlyStopping(2**31)}, "stop_early.patience=2147483648: it must be"),
    "user_attrs": (lambda: {"user_attrs": {"a": float("nan")}}, "User attributes must be what JSON can hold"),
}

CHANGES: dict[str, tuple[Callable[[Trial], object], str]] = {
    "extend by nothing": (lambda trial: trial.extend(0), "steps=0: it must be at least 1 and at most 2147483647"),
    "extend in words": (lambda trial: trial.extend("a"), "steps='a': it must be a whole number"),  # pyright: ignore
    "prioritise": (lambda trial: trial.prioritise(5000), "priority=5000: it must be at least -1000 and at most 1000"),
}


@pytest.fixture(scope="module")
def study(place: Client | None) -> Study:
    return nestor.create_study(f"study {uuid4()}", server=place)


@pytest.fixture(scope="module")
def trial(study: Study) -> Trial:
    return study.optimize(ridge(), 1, wait=False)


def _refuses(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises((InvalidInput, ConfigInvalid), match=sentence) as caught:
        call()
    assert "pydantic" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("options", "sentence"), NEW_STUDY.values(), ids=NEW_STUDY.keys())
def test_an_invalid_study_is_refused(place, options, sentence):
    _refuses(lambda: nestor.create_study(**{"name": f"study {uuid4()}", "server": place} | options), sentence)


@pytest.mark.parametrize(("options", "sentence"), OPTIONS.values(), ids=OPTIONS.keys())
def test_an_invalid_trial_is_refused_and_not_started(study, options, sentence):
    _refuses(lambda: study.optimize(ridge(), **{"n_steps": 1} | options()), sentence)
    assert all(trial.spec.outer.steps == 1 and not trial.spec.warm_start for trial in study.trials)


@pytest.mark.parametrize(("change", "sentence"), CHANGES.values(), ids=CHANGES.keys())
def test_an_invalid_change_is_refused(trial, change, sentence):
    _refuses(lambda: change(trial), sentence)


def test_a_mistake_inside_a_submission_is_named_with_the_others():
    with pytest.raises(InvalidInput, match=r"seed=-1: .* warm_start\.trial='x': it must be a UUID"):
        build(TrialCreate, {"problem": {"preset": {}}, "seed": -1, "warm_start": {"trial": "x"}})
