"""Both backends refuse invalid arguments with one error message, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
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

untyped: Any = nestor  # for what a type checker would refuse
# Options as functions: the engine's own classes refuse some values when they are made.
OPTIONS = {
    "terms": (
        lambda: {"response": nestor.Implicit(nestor.GaussNewton(), nestor.Neumann(terms=20_000))},
        r"Neumann\(terms=20000\): it must be at least 0 and at most 10000",
    ),
    "terms of a warm start": (
        lambda: {"response": {"implicit": {"solver": {"warm_started": {"solver": {"neumann": {"terms": 20_000}}}}}}},
        "response.solver.solver.terms=20000: it must be at least 0 and at most 10000",
    ),
    "alpha": (
        lambda: {"response": nestor.Implicit(solver=nestor.Neumann(alpha=float("inf")))},
        r"Neumann\(alpha=inf\): it must be a finite number, above 0, or 'auto'",
    ),
    "damping": (
        lambda: {"response": nestor.Implicit(nestor.GaussNewton(damping=float("inf")))},
        r"GaussNewton\(damping=inf\): it must be a finite number, at least 0",
    ),
    "rank": (lambda: {"response": nestor.Hypernetwork(rank=20_000)}, r"Hypernetwork\(rank=20000\): .* at most 10000"),
    "priority": (lambda: {"priority": 5000}, "priority=5000: it must be at least -1000 and at most 1000"),
    "priority in words": (lambda: {"priority": "high"}, "priority='high': it must be a whole number, at least -1000"),
    "part of a priority": (lambda: {"priority": 1.5}, "priority=1.5: it must be a whole number"),
    "evaluate_every": (lambda: {"evaluate_every": 2**31}, "evaluate_every=2147483648: .* at most 2147483647"),
    "half a step": (lambda: {"evaluate_every": 2.5}, "evaluate_every=2.5: it must be a whole number, at least 1"),
    "no n_steps": (lambda: {"n_steps": None}, "n_steps is missing"),
    "n_steps": (lambda: {"n_steps": 2**31}, "n_steps=2147483648: it must be at least 1 and at most 2147483647"),
    "n_steps in words": (lambda: {"n_steps": "5"}, "n_steps='5': it must be a whole number, at least 1"),
    "warmup_steps": (lambda: {"warmup_steps": -1}, "warmup_steps=-1: it must be at least 0"),
    "seed": (lambda: {"seed": -1}, "seed=-1: it must be at least 0 and below 9223372036854775808"),
    "seed in words": (lambda: {"seed": "x"}, "seed='x': it must be a whole number"),
    "no device": (lambda: {"devices_per_trial": 0}, "devices_per_trial=0: it must be at least 1 and at most 1024"),
    "devices in words": (lambda: {"devices_per_trial": "two"}, "devices_per_trial='two': it must be a whole number"),
    "one outer_lr": (lambda: {"outer_lr": 0.1}, "outer_lr=0.1: it must be a dictionary"),
    "outer_lr": (lambda: {"outer_lr": {"l2": float("inf")}}, "outer_lr.l2=inf: it must be a finite number, above 0"),
    "outer_lr in words": (lambda: {"outer_lr": {"l2": "fast"}}, "outer_lr.l2='fast': it must be a number, above 0"),
    "outer_lr by number": (lambda: {"outer_lr": {1: 0.1}}, "outer_lr.1: the name 1 must be a string"),
    "lr in words": (lambda: {"inner": untyped.Adam("fast")}, r"Adam\(lr='fast'\): it must be a number, above 0"),
    "trace": (lambda: {"trace": "maybe"}, "trace='maybe': it must be True or False"),
    "autocast": (lambda: {"autocast": "float16"}, "autocast='float16': it must be 'bfloat16'"),
    "warm_start": (lambda: {"warm_start": SOME}, "warm_start=UUID.*: it must be a WarmStart"),
    "warm_start's trial": (lambda: {"warm_start": untyped.WarmStart(trial="x")}, "trial='x': it must be a UUID"),
    "warm_start's step": (lambda: {"warm_start": nestor.WarmStart(trial=SOME, step=-1)}, "step=-1: .* at least 0"),
    "misspelt option": (lambda: {"warm_start": untyped.WarmStart(trial=SOME, wieghts=1)}, "wieghts: there is no such"),
    "missing option": (lambda: {"warm_start": untyped.WarmStart()}, "trial is missing"),
    "betas": (
        lambda: {"inner": nestor.Adam(betas=(0.9, 1.5))},
        r"Adam\(betas.1=1.5\): it must be at least 0 and below 1",
    ),
    "momentum": (
        lambda: {"inner": nestor.SGD(momentum=1.0)},
        r"SGD\(momentum=1.0\): it must be at least 0 and below 1",
    ),
    "inner steps": (lambda: {"inner_steps": 2**31}, "inner_steps=2147483648: it must be at least 1"),
    "steps of the inner optimizer": (lambda: {"inner": untyped.Adam(steps=20)}, r"Adam\(steps=20\): .* pass n_steps"),
    "a batch size of an optimizer": (
        lambda: {"outer": untyped.RMSprop(batch_size=6)},
        r"RMSprop\(batch_size=6\): the batch sizes belong to the config; pass batch_size",
    ),
    "outer steps": (
        lambda: {"n_steps": 2, "outer": untyped.Adam(0.1, steps=50)},
        r"Adam\(steps=50\): the numbers of steps belong to the config; pass n_steps for outer steps, and inner_steps",
    ),
    "schedule": (
        lambda: {"inner": nestor.Adam(schedule=nestor.CosineDecay(steps=2**31))},
        r"CosineDecay\(steps=2147483648\): it must be at least 1",
    ),
    "folds": (
        lambda: {"folds": nestor.Folds(100_000)},
        r"Folds\(count=100000\): it must be at least 2 and at most 1000",
    ),
    "patience": (lambda: {"early_stopping": nestor.EarlyStopping(2**31)}, r"EarlyStopping\(patience=2147483648\): it"),
    "share": (lambda: {"early_stopping": untyped.EarlyStopping(share=0.5)}, "share=0.5.: it is called fraction"),
    "an optimizer of torch": (lambda: {"inner": object()}, "inner=<object .*: pass one of Nestor's optimizers"),
    "a solver as a response": (lambda: {"response": nestor.Neumann()}, "response=Neumann.*: pass a response, such as"),
    "more steps back than there are": (
        lambda: {"inner_steps": 3, "response": nestor.Unrolled(4)},
        "response=Unrolled.*: it goes back further than the 3 inner steps",
    ),
    "squares that are not kept": (
        lambda: {
            "inner": nestor.SGD(),
            "response": nestor.Implicit(solver=nestor.PreconditionedCG(preconditioner=nestor.AdamDiagonal())),
        },
        "AdamDiagonal reads squared gradients, which the inner optimizer does not keep",
    ),
    "KFAC on two devices": (
        lambda: {"devices_per_trial": 2, "response": nestor.Implicit(nestor.KFAC())},
        "devices_per_trial=2: KFAC needs whole batches, which 2 devices divide",
    ),
    "config and a keyword": (
        lambda: {"config": nestor.Config(n_steps=2)},
        "n_steps is given twice: 2 in config, and 1 as a keyword. Leave one of them out",
    ),
    "a dictionary as config": (lambda: {"config": {"n_steps": 1}}, r"config=\{'n_steps': 1\}: pass nestor.Config"),
    "user_attrs": (lambda: {"user_attrs": {"a": float("nan")}}, "User attributes must be what JSON can hold"),
}

CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "extend by nothing": (lambda trial: trial.extend(0), "steps=0: it must be at least 1 and at most 2147483647"),
    "extend in words": (lambda trial: trial.extend("a"), "steps='a': it must be a whole number"),
    "prioritize": (lambda trial: trial.prioritize(5000), "priority=5000: it must be at least -1000 and at most 1000"),
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
    assert all(trial.spec.n_steps == 1 and not trial.spec.warm_start for trial in study.trials)


@pytest.mark.parametrize(("change", "sentence"), CHANGES.values(), ids=CHANGES.keys())
def test_an_invalid_change_is_refused(trial, change, sentence):
    _refuses(lambda: change(trial), sentence)


def test_a_mistake_inside_a_submission_is_named_with_the_others():
    with pytest.raises(InvalidInput, match=r"seed=-1: .* warm_start\.trial='x': it must be a UUID"):
        build(TrialCreate, {"problem": {"preset": {}}, "seed": -1, "warm_start": {"trial": "x"}})
