"""Factories of installed packages: what they are given, what they may return, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nestor
from nestor import EntryPoint, errors
from nestor_engine import Config, optimize
from tests.support.packages import install

SOURCE = '''
import random
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import nestor
from nestor.hparams import L2, ExampleWeights

def loss(outputs, batch):
    return F.mse_loss(outputs, batch["y"], reduction="none").mean(1)

def regression(width: int = 3, *, seed: int = 7, per_example: bool = False) -> nestor.Problem:
    """A linear model."""
    model = nn.Linear(width, 1)
    noise = torch.tensor([random.random() + np.random.rand() for _ in range(20)])[:, None]
    data = torch.randn(20, width) + seed, noise
    kinds = [L2(model, init=-3.0), *([ExampleWeights(20)] if per_example else [])]
    return nestor.Problem(model, kinds, loss, loss, train=data, val=data)

def functions(**others):
    problem = regression(**others)
    return problem.bilevel(), problem.data

def required(width, depth): ...
def positional(width, /): ...
def fails(): raise RuntimeError("no such file\\nand more")
def leaves(): sys.exit(3)
def exhausts(): raise MemoryError
def nothing(): ...
def only_data(): return regression().data, regression().data
def wrong_data(): return nestor.Problem(nn.Linear(1, 1), {}, loss, loss, train=3, val=3)

number = 5
'''
NAMES = "regression functions required positional fails leaves exhausts nothing only_data wrong_data number absent"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    install(site, "factories", SOURCE, {name: f"factories:{name}" for name in NAMES.split()})
    install(site, "unloadable", "import a_package_that_is_missing", {"problem": "unloadable:problem [extra]"})
    install(site, "leaving", "raise SystemExit(2)", {"problem": "leaving:problem"})
    (site / "unregistered.py").write_text("raise AssertionError('it was imported')")
    return site


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))


def numbers(made: Any) -> tuple[torch.Tensor, ...]:
    bilevel, data = made.bilevel(), made.data
    return (*bilevel.params.values(), data.train["x"], data.train["y"])


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(numbers(a), numbers(b), strict=True))


def test_a_problem_is_a_function_of_its_params_and_the_seed_of_the_trial():
    point = EntryPoint("factories:regression", width=2)
    assert same(point.build(seed=1), point.build(seed=1))
    assert not same(point.build(seed=1), point.build(seed=2))
    assert same(EntryPoint("factories:regression", width=2, seed=1).build(seed=1), point.build(seed=1))
    assert point.build().bilevel().params["weight"].shape == (1, 2)


def test_building_leaves_the_random_numbers_of_the_caller_as_they_were():
    def seeded() -> tuple[float, ...]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        if builds:
            EntryPoint("factories:regression").build()
        return torch.rand(1).item(), random.random(), float(np.random.rand())

    builds = False
    expected = seeded()
    builds = True
    assert seeded() == expected


def test_a_factory_may_return_functions_and_data():
    problem, functions = (EntryPoint(f"factories:{name}", seed=5).build() for name in ("regression", "functions"))
    steps = [list(optimize(made.bilevel(), made.data, Config(n_steps=3))) for made in (problem, functions)]
    assert [step.val_loss for step in steps[0]] == [step.val_loss for step in steps[1]]


def test_a_trial_in_this_process_records_its_entry_point_and_trains_what_the_factory_made():
    point = EntryPoint("factories:regression", width=2)
    for function in ("regression", "functions"):
        named = EntryPoint(f"factories:{function}", width=2, seed=4)
        trial = nestor.create_study().optimize(named, n_steps=2, seed=4, show_progress_bar=False)
        assert trial.spec.problem == named.problem
        made = point.build(seed=4)
        expected = list(optimize(made.bilevel(), made.data, Config(n_steps=2, seed=4)))
        assert [step.val_loss for step in trial.steps] == [step.val_loss for step in expected]
        trial.load_weights(torch.nn.Linear(2, 1))


def test_the_problem_of_a_factory_is_checked_in_this_process():
    assert EntryPoint("factories:regression").check().findings == ()
    with pytest.raises(errors.ArgumentInvalid, match=r"returns a nestor\.Problem"):
        EntryPoint("factories:functions").check()


REFUSED: list[tuple[Callable[[], EntryPoint], type[Exception], str]] = [
    (lambda: EntryPoint("factories:other"), errors.EntryPointNotFound, "not installed in this process.*'factories:fai"),
    (lambda: EntryPoint("unregistered:problem"), errors.EntryPointNotFound, "unregistered:problem"),
    (lambda: EntryPoint("os:system", command="true"), errors.EntryPointNotFound, "group 'nestor.problems'"),
    (lambda: EntryPoint("factories"), errors.OptionInvalid, "such as package:factory"),
    (lambda: EntryPoint("factories:a b"), errors.OptionInvalid, "such as package:factory"),
    (lambda: EntryPoint(3), errors.OptionTypeWrong, "entry_point=3: it must be a string"),  # pyright: ignore
    (lambda: EntryPoint("x" * 300 + ":y"), errors.OptionOutOfRange, "200 characters"),
    (lambda: EntryPoint("unloadable:problem"), errors.EntryPointNotImportable, "No module named 'a_package_that_is"),
    (lambda: EntryPoint("leaving:problem"), errors.EntryPointNotImportable, "leaving 1.0.*SystemExit: 2"),
    (lambda: EntryPoint("factories:absent"), errors.EntryPointNotImportable, "factories 1.0.*'absent'"),
    (lambda: EntryPoint("factories:number"), errors.EntryPointNotCallable, "it is 5"),
    (lambda: EntryPoint("factories:positional"), errors.EntryPointNotCallable, "its parameter 'width'"),
    (lambda: EntryPoint("factories:regression", wdith=2), errors.EntryPointParamUnknown, "'wdith'.*'width', 'seed'"),
    (lambda: EntryPoint("factories:required", width=2), errors.EntryPointParamMissing, "parameter 'depth'"),
    (lambda: EntryPoint("factories:regression", width=torch.eye(2)), errors.EntryPointParamNotJson, "'width'.*tensor"),
    (lambda: EntryPoint("factories:regression", width=float("nan")), errors.EntryPointParamNotJson, "hold: nan"),
    (
        lambda: EntryPoint("factories:fails"),
        errors.EntryPointFailed,
        r"factories.py, line \d+.*RuntimeError: no such f",
    ),
    (lambda: EntryPoint("factories:leaves"), errors.EntryPointFailed, "SystemExit: 3"),
    (lambda: EntryPoint("factories:exhausts"), errors.OutOfMemory, "out of memory"),
    (lambda: EntryPoint("factories:regression", width="a"), errors.EntryPointFailed, "nn.Linear"),
    (lambda: EntryPoint("factories:wrong_data"), errors.ProblemInvalid, "train"),
    (lambda: EntryPoint("factories:nothing"), errors.EntryPointResultInvalid, "returned None"),
    (lambda: EntryPoint("factories:only_data"), errors.EntryPointResultInvalid, "Bilevel, Data"),
]


@pytest.mark.parametrize(("make", "error", "sentence"), REFUSED)
def test_what_cannot_run_is_refused_with_a_sentence(
    make: Callable[[], EntryPoint], error: type[Exception], sentence: str
):
    with pytest.raises(error, match=f"(?s){sentence}") as raised:
        nestor.create_study().optimize(make(), n_steps=1, show_progress_bar=False)
    assert "\n" not in str(raised.value)


def test_a_factory_with_a_hyperparameter_for_each_example_does_not_support_folds():
    point = EntryPoint("factories:regression", per_example=True)
    with pytest.raises(errors.FoldsWithExampleHparams):
        nestor.create_study().optimize(point, n_steps=1, folds=nestor.Folds(2))


def test_params_are_what_a_worker_reads():
    point = EntryPoint("a.b:c", sizes=(1, np.int64(2)), rate=np.float32(0.5), names={"x": None}, entry_point="e")
    params = {"sizes": [1, 2], "rate": 0.5, "names": {"x": None}, "entry_point": "e"}
    assert point.problem.model_dump() == {"entry_point": "a.b:c", "params": params, "seed": None}
    assert repr(EntryPoint("a:b", n=1)) == "EntryPoint('a:b', n=1)"
    assert EntryPoint("a:b", n=1) == EntryPoint("a:b", n=1) != EntryPoint("a:b", n=2)
    assert len({EntryPoint("a:b", n=1), EntryPoint("a:b", n=1)}) == 1
