"""Whatever the public names are given, they raise an error of Nestor's, or a TypeError for a value of a wrong type."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from uuid import uuid4

import pytest
import torch
from torch import nn

import nestor
from nestor import Client, Problem, Study, Trial, schemas
from nestor.errors import FunctionFailed, NestorError
from nestor.schemas import Schema
from tests.client.problems import ridge, squared_error

WRONG: dict[str, Any] = {
    "None": None,
    "-1": -1,
    "NaN": float("nan"),
    "word": "x",
    "huge": "x" * 1_000_000,
    "object": object(),
    "list": [],
    "dict": {"a": 1},
    "type": int,
}
X = torch.zeros(3, 4)
MODEL = nn.Linear(4, 1)
GOOD: dict[str, Any] = {  # for parameters without a default
    "model": MODEL,
    "hparams": {"a": torch.zeros(3)},
    "tensors": {"a": torch.zeros(3)},
    "train_loss": squared_error,
    "val_loss": squared_error,
    "train": (X, X[:, :1]),
    "val": (X, X[:, :1]),
    "n_steps": 1,
    "n": 3,
    "x": X,
    "labels": torch.tensor([0, 1, 2]),
    "classes": 3,
    "column": "y",
    "groups": 3,
    "tasks": 2,
    "network": nn.Linear(4, 4),
    "path": "0",
    "problem": ridge(),
    "config": nestor.Config(n_steps=1, inner_steps=1),
    "kinds": [],
    "name": "nobody's",
    "trial": uuid4(),
    "trial_id": uuid4(),
    "by": schemas.Order.change,
    "index": "0",
    "note": "a note",
    "new_name": "a copy",
    "from_study_name": "nobody's",
    "to_study_name": "a copy",
    "dataset_id": uuid4(),
    "study_id": uuid4(),
    "steps": 1,
    "step": 1,
    "priority": 0,
    "action": "stop",
    "patch": schemas.StudyPatch(),
    "number": 0,
    "tags": ["a"],
    "key": "k",
    "value": 1,
    "data": b"",
    "digest": f"sha256:{'0' * 64}",
    "new": None,
    "spec": None,
    "entry_point": "package:factory",
    "asked": schemas.Confirm(),
    "rating": nestor.hparams.LossReweighting(nn.Linear(1, 1)),
}
INSIDE = ("Study", "Trial")  # made by Nestor, not by users
RUN = ("fit", "evaluate")  # of the engine, on a problem as functions
SKIPPED = {
    "optimize",  # below, and in test_mistakes
    "submit",  # which `optimize` calls
    "search",  # in test_search
    "close",
}
NAMES = [
    *(name for name in nestor.__all__ if callable(getattr(nestor, name)) and name not in (*INSIDE, *RUN)),
    *(f"hparams.{name}" for name in nestor.hparams.__all__ if name not in ("TRANSFORMS", "Hyperparameters", "UNet")),
]


def _answers(function: Callable[..., Any], name: str) -> Iterator[str]:
    """What comes out of `function` that must not, with each of its arguments wrong in turn."""
    parameters = [
        p for p in inspect.signature(function).parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    required = {p.name: GOOD[p.name] for p in parameters if p.default is p.empty}
    unnamed = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]

    def called(**given: Any) -> Any:
        return function(*(given.pop(one) for one in unnamed), **given)

    for parameter in parameters:
        yield from _wrong(called, name, parameter.name, required)


def _wrong(function: Callable[..., Any], name: str, parameter: str, others: dict[str, Any]) -> Iterator[str]:
    for label, wrong in WRONG.items():
        try:
            result = function(**others | {parameter: wrong})
            if inspect.isgenerator(result):
                list(islice(result, 2))
        except nestor.errors.CallInvalid:
            pass
        except NestorError as error:
            if len(str(error)) > 2_000 or "pydantic" in str(error):
                yield f"{name}({parameter}={label}): {str(error)[:300]}"
        except Exception as error:
            yield f"{name}({parameter}={label}): {type(error).__name__}: {str(error)[:200]}"


@pytest.mark.parametrize("name", NAMES)
def test_public_names_answer_with_nestors_errors(name: str):
    function: Any = nestor
    for part in name.split("."):
        function = getattr(function, part)
    assert list(_answers(function, name)) == []


SCHEMAS = {name: cls for name, cls in vars(schemas).items() if isinstance(cls, type) and issubclass(cls, Schema)}


@pytest.mark.parametrize(("name", "cls"), SCHEMAS.items(), ids=SCHEMAS)
def test_schemas_answer_with_nestors_errors(name: str, cls: type[Schema]):
    made = {field: lambda field=field, **wrong: cls(**{field: wrong["value"]}) for field in cls.model_fields}
    assert [one for field in made for one in _wrong(made[field], f"{name}.{field}", "value", {})] == []


METHODS = [
    (cls, name)
    for cls in (Client, Study, Trial, Problem)
    for name, member in vars(cls).items()
    if inspect.isfunction(member) and not name.startswith("_") and name not in SKIPPED
    if len(inspect.signature(member).parameters) > 1
]


@pytest.mark.parametrize(("cls", "name"), METHODS, ids=[f"{cls.__name__}.{name}" for cls, name in METHODS])
def test_methods_answer_with_nestors_errors(request: pytest.FixtureRequest, cls: type, name: str):
    study = nestor.create_study(f"study {uuid4()}")
    given = {
        Client: lambda: request.getfixturevalue("client"),
        Study: lambda: study,
        Trial: lambda: study.optimize(ridge(), 1, show_progress_bar=False),
        Problem: ridge,
    }[cls]()
    assert list(_answers(getattr(given, name), f"{cls.__name__}.{name}")) == []


def test_what_is_tuned_must_be_a_problem():
    study = nestor.create_study()
    for wrong in WRONG.values():
        with pytest.raises((NestorError, TypeError)):
            study.optimize(wrong, 1)


def test_an_error_of_the_users_own_code_is_named_and_kept():
    class Broken(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of ideas")

    model = Broken(4, 1)
    problem = Problem(model, nestor.hparams.L2(model), squared_error, squared_error, train=(X, X), val=(X, X))
    with pytest.raises(FunctionFailed, match="RuntimeError: out of ideas") as exported:
        problem.export()
    assert isinstance(exported.value.__cause__, RuntimeError)
    report = problem.check()
    assert {finding.code for finding in report.errors} == {"function-failed"}
    with pytest.raises(nestor.errors.CheckFailed, match=r"Broken.*RuntimeError: out of ideas") as checked:
        report.raise_errors()
    assert isinstance(checked.value.__cause__, RuntimeError)
    assert checked.value.context["errors"][0]["code"] == "function-failed"
