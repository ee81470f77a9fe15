"""Both backends refuse invalid arguments with one error message, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nestor
from nestor import Client, Study, Trial, visualization
from nestor.errors import ClientError, ConfigInvalid, InvalidInput, NestorError
from nestor.hparams import L2
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
    "name with NUL": ({"name": "a\0b"}, "name='.*': it must not contain NUL characters"),
    "name with a surrogate": ({"name": "\ud800"}, "name='.*': it must not contain lone surrogates"),
    "attributes of another type": ({"user_attrs": [1]}, r"user_attrs is \[1\]. Pass a dict"),
    "NumPy's number": ({"user_attrs": {"a": np.float32(1)}}, r"user_attrs\['a'\] is of the type float32.*value.item"),
    "an array": ({"user_attrs": {"a": [np.ones(2)]}}, r"user_attrs\['a'\]\[0\] is of the type ndarray.*tolist"),
    "a tensor": ({"user_attrs": {"a": {"b": torch.ones(())}}}, r"\['a'\]\['b'\] is of the type Tensor.*item\(\)"),
    "a set": ({"user_attrs": {"a": {1}}}, r"user_attrs\['a'\] is of the type set. Pass a list"),
    "a surrogate": ({"user_attrs": {"a": "\ud800"}}, "character that cannot be stored. Remove NUL"),
    "NUL in an attribute": ({"user_attrs": {"a\0": 1}}, "character that cannot be stored. Remove NUL"),
    "a huge number": ({"user_attrs": {"a": 10**400}}, r"user_attrs\['a'\].*too large. Integers must be below"),
    "a numbered attribute": ({"user_attrs": {1: 2}}, "the name 1 is not a string. Use strings"),
    "Optuna's study_name": ({"study_name": "x"}, "create_study: there is no argument 'study_name'.*Pass name"),
    "Optuna's storage": ({"storage": "sqlite:///x"}, "there is no argument 'storage'.*Pass server"),
    "Optuna's directions": ({"directions": ["maximize"]}, "there is no argument 'directions'.*ranked by one metric"),
    "a loss to maximize": ({"direction": "maximize"}, "direction='maximize': only a metric can be maximized.*metric="),
    "another direction": ({"metric": "f1", "direction": "up"}, "direction='up': .*'minimize'.*'maximize'"),
    "a metric without a name": ({"metric": ""}, "metric=''"),
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
    "n_trials": (lambda: {"n_trials": 10}, "study.optimize: there is no argument 'n_trials'.*Pass n_steps=…"),
    "n_jobs": (lambda: {"n_jobs": 2}, "there is no argument 'n_jobs'.*wait=False"),
    "timeout in words": (lambda: {"timeout": "1h"}, "timeout='1h': it must be a number"),
    "no timeout": (lambda: {"timeout": 0}, "timeout=0: it must be above 0"),
    "negative timeout": (lambda: {"timeout": -1.0}, r"timeout=-1\.0: it must be above 0"),
    "endless timeout": (lambda: {"timeout": float("inf")}, "timeout=inf: it must be a finite number"),
    "misspelt keyword": (lambda: {"n_step": 10}, "there is no argument 'n_step'.*Did you mean 'n_steps'"),
    "one callback": (lambda: {"callbacks": print}, r"callbacks is <.*Pass a list of functions of \(study, trial\)"),
    "callback of the trial alone": (lambda: {"callbacks": [lambda trial: None]}, r"callbacks\[0\] is .*Pass a list of"),
    "wait in words": (lambda: {"wait": "no"}, "wait='no': it must be True or False"),
    "a progress bar in words": (lambda: {"show_progress_bar": "no"}, "show_progress_bar='no': it must be True or"),
    "a study as a warm start": (lambda: {"warm_start": object()}, "warm_start=<object.*: it must be a WarmStart"),
    "a class of optimizers": (lambda: {"inner": nestor.Adam}, "inner=<class .*: pass one of Nestor's optimizers"),
    "one patience": (lambda: {"early_stopping": 5}, "early_stopping=5: pass nestor.EarlyStopping"),
    "number of folds": (lambda: {"folds": 5}, r"folds=5: pass nestor\.Folds\(5\)"),
    "a config by position": (lambda: {"config": untyped.Config(5)}, r"Config\(5\): pass its fields by name"),
}

x, y = torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
NET = nn.Linear(3, 2)


def cross_entropy(outputs, batch):
    return F.cross_entropy(outputs, batch["y"])


def problem(**changes: Any) -> nestor.Problem:
    decay = L2(NET, per="global")
    given: dict[str, Any] = {"model": NET, "hparams": decay, "train_loss": cross_entropy, "val_loss": cross_entropy}
    stated: dict[str, Any] = given | {"train": (x, y), "val": (x, y)} | changes
    return nestor.Problem(**stated)


# Mistakes in the problem that are found before or when it is checked: what was passed, and the sentence.
PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "a criterion of torch": ({"train_loss": nn.CrossEntropyLoss()}, r"train_loss is CrossEntropyLoss.*batch\['y'\]"),
    "a function of torch": (
        {"val_loss": F.mse_loss},
        r"val_loss is mse_loss, which takes outputs and a target",
    ),
    "a loss by name": ({"train_loss": "mse"}, r"train_loss is 'mse'. Pass a function of \(outputs, batch\)"),
    "a loss of outputs": ({"train_loss": lambda outputs: outputs.sum()}, r"train_loss is a function of \(outputs\)"),
    "a loss of four": ({"val_loss": lambda a, b, c, d: a}, r"val_loss is a function of \(a, b, c, d\)"),
    "the whole batch as labels": (
        {"train_loss": lambda outputs, batch: F.cross_entropy(outputs, batch)},
        r"train_loss.*batch is a dict of columns, which are 'x', 'y', 'index': read one by its name.*batch\['y'\]",
    ),
    "a column by number": (
        {"train_loss": lambda outputs, batch: F.cross_entropy(outputs, batch[1])},
        "train_loss.*batch is a dict of columns",
    ),
    "a column as an attribute": (
        {"val_loss": lambda outputs, batch: F.cross_entropy(outputs, batch.y)},
        "val_loss.*batch is a dict of columns",
    ),
    "another column": (
        {"train_loss": lambda outputs, batch: F.cross_entropy(outputs, batch["label"])},
        "train_loss.*batch is a dict of columns",
    ),
    "a list of metrics": ({"metrics": [cross_entropy]}, r"metrics is \[<.*Pass a dict of names and functions"),
    "one metric": ({"metrics": cross_entropy}, "metrics is <function.*Pass a dict of names and functions"),
    "a numbered metric": ({"metrics": {1: cross_entropy}}, "metrics is a dict with the key 1"),
    "a constant metric": ({"metrics": {"a": 1}}, r"metrics\['a'\] is 1. Pass a function"),
    "a metric of outputs": ({"metrics": {"a": lambda outputs: outputs}}, r"metrics\['a'\] is a function of \(outputs"),
    "a metric that returns a text": (
        {"metrics": {"a": lambda outputs, batch: "good"}},
        "The metric 'a' returned a str. Return a number: a tensor, or a number of Python or NumPy",
    ),
    "a loss that returns nothing": ({"val_loss": lambda outputs, batch: None}, "val_loss: It returned a NoneType"),
    "a class as a model": ({"model": nn.Linear}, r"model is <class .*Pass a torch.nn.Module"),
    "parameters as a model": ({"model": NET.parameters()}, "model is <generator .*Pass a torch.nn.Module"),
    "one loss for both": ({"loss": cross_entropy}, "Problem: there is no argument 'loss'.*train_loss and val_loss"),
    "no hyperparameters": ({"hparams": {}}, "There is no hyperparameter to tune. Pass hparams"),
}

nowhere = "http://127.0.0.1:1"
CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "a number as a server": (lambda: nestor.create_study(server=given(5)), "server=5: pass an address"),
    "a database as a server": (lambda: nestor.create_study(server="sqlite:///a"), "'sqlite:///a' is not the address"),
    "a token without a server": (lambda: nestor.create_study(token="nst_x"), "token: it is for a server: pass server"),
    "a numbered token": (lambda: nestor.Client(nowhere, given(5)), "token: it must be a string"),
    "a token of two lines": (lambda: nestor.Client(nowhere, "a\nb"), "token: it must be one line of ASCII"),
    "a timeout in words": (
        lambda: nestor.Client(nowhere, "t", timeout=given("5")),
        "timeout='5': it must be a",
    ),
    "no timeout": (
        lambda: nestor.Client(nowhere, "t", timeout=given(None)),
        "timeout=None: it must be a number",
    ),
    "a negative timeout": (lambda: nestor.Client(nowhere, "t", timeout=-1.0), "timeout=-1.0: it must be above 0"),
    "url of a client": (lambda: untyped.Client(url=nowhere), "Client: there is no argument 'url'.*Pass server"),
    "a study by number": (lambda: nestor.load_study(given(5)), "name=5: it must be a string"),
    "a study without a name": (lambda: untyped.load_study(), "load_study: the argument 'name' is missing. Pass name"),
    "a figure of a number": (
        lambda: visualization.plot_trial(given(5)),
        "plot_trial: trial is 5. Pass a Trial",
    ),
    "a figure of nothing": (
        lambda: visualization.plot_optimization_history(given(None)),
        "study is None. Pass a",
    ),
    "a loss without data": (
        lambda: untyped.Problem(NET, L2(NET), cross_entropy, cross_entropy),
        "'train' and 'val' are",
    ),
    "a decay without a model": (lambda: given(L2)(), "L2: the argument 'model' is missing. Pass model=…"),
    "a check of a batch size": (lambda: given(problem()).check(batch=5), "there is no argument 'batch'"),
}


def given(value: Any) -> Any:
    """What a type checker would refuse."""
    return value


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "extend by nothing": (lambda trial: trial.extend(0), "steps=0: it must be at least 1 and at most 2147483647"),
    "extend in words": (lambda trial: trial.extend("a"), "steps='a': it must be a whole number"),
    "extend by what": (lambda trial: trial.extend(), "trial.extend: the argument 'steps' is missing. Pass steps=…"),
    "stream from a word": (lambda trial: list(trial.stream(after="x")), "after='x': it must be a whole number"),
    "events from a word": (lambda trial: list(trial.events(after="x")), "after='x': it must be a whole number"),
    "values at a word": (lambda trial: trial.hparams_at("last"), "step='last': it must be a whole number from 0 to"),
    "Optuna's params": (lambda trial: trial.params, "Trial has no attribute 'params'. Use hparams"),
    "Optuna's report": (lambda trial: trial.report(0.1, 1), "Trial has no attribute 'report'.*nestor.PRUNE"),
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


@pytest.mark.parametrize(("changes", "sentence"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_an_invalid_problem_is_refused(changes, sentence):
    with pytest.raises(InvalidInput, match=sentence) as caught:
        nestor.create_study().optimize(problem(**changes), 1)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize(("call", "sentence"), CALLS.values(), ids=CALLS.keys())
def test_an_invalid_call_is_refused(call, sentence):
    with pytest.raises((InvalidInput, ClientError), match=sentence):
        call()


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (
            lambda study: study.optimize(lambda trial: 0.0, 1),
            "problem is <function.*Nestor calls no objective",
        ),
        (lambda study: study.optimize(NET, 1), "problem is Linear.*Pass a nestor.Problem"),
        (lambda study: study.optimize(), "study.optimize: the argument 'problem' is missing"),
        (lambda study: study.best_params, "Study has no attribute 'best_params'. Use best_hparams"),
        (lambda study: study.enqueue_trial({}), r"no attribute 'enqueue_trial'. Use optimize\(problem"),
        (lambda study: study.set_user_attr(1, 2), "the name 1 is not a string"),
        (lambda study: study.set_user_attr("a", np.float32(1)), r"user_attrs\['a'\] is of the type float32"),
    ],
)
def test_a_wrong_use_of_a_study_is_refused(study, attempt, sentence):
    _refuses(lambda: attempt(study), sentence)
    assert not hasattr(study, "best_params")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "SSL_CERT_FILE"])
def test_a_broken_variable_of_the_network_is_named(monkeypatch, name):
    monkeypatch.setenv(name, "nonsense://nowhere")
    with pytest.raises(NestorError, match=f"environment's settings: .*Check .*{name}"):
        Client("http://example.org", "token")


def test_a_mistake_inside_a_submission_is_named_with_the_others():
    with pytest.raises(InvalidInput, match=r"seed=-1: .* warm_start\.trial='x': it must be a UUID"):
        build(TrialCreate, {"problem": {"preset": {}}, "seed": -1, "warm_start": {"trial": "x"}})
