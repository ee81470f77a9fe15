"""The options of a trial as flat rows: each with its default, also those of the alternatives that were chosen."""

from __future__ import annotations

from typing import Any

import pytest

from nestor import options
from nestor.options import Option
from nestor.results.tables import flat_options, option_rows, option_table
from nestor.schemas import OptionRow, TrialSpec

REQUIRED = {"problem": {"preset": {}}, "n_steps": 10}
FAMILIES = {  # where an option of a family can be chosen
    "inner": options.Optimizer,
    "outer": options.Optimizer,
    "response": options.Response,
}


def rows(**chosen: Any) -> dict[str, OptionRow]:
    table = option_table(TrialSpec.model_validate(REQUIRED | chosen))
    found = {row.name: row for row in table}
    assert len(found) == len(table)
    return found


def differing(**chosen: Any) -> dict[str, tuple[Any, Any]]:
    return {name: (row.value, row.default) for name, row in rows(**chosen).items() if not row.is_default}


def test_only_what_must_be_given_differs_where_nothing_was_chosen():
    assert differing() == {"n_steps": (10, None)}


def test_what_differs_comes_first_and_each_part_is_by_name():
    table = option_table(TrialSpec.model_validate(REQUIRED | {"seed": 5, "batch_size": 7}))
    names = [row.name for row in table]
    assert names[:3] == ["batch_size", "n_steps", "seed"]
    assert names[3:] == sorted(names[3:])


def test_an_alternative_is_compared_with_its_own_defaults():
    found = rows(inner={"optimizer": "sgd", "lr": 0.5})
    assert (found["inner.optimizer"].value, found["inner.optimizer"].default) == ("sgd", "adam")
    assert (found["inner.lr"].value, found["inner.lr"].default) == (0.5, options.SGD().lr)
    assert found["inner.momentum"].is_default
    assert differing(response={"kind": "implicit", "solver": {"kind": "neumann", "terms": 3}}) == {
        "n_steps": (10, None),
        "response.solver.kind": ("neumann", options.Implicit().solver.tag),
        "response.solver.terms": (3, options.Neumann().terms),
    }


def test_the_usual_alternative_is_compared_with_the_usual_one():
    assert options.WarmStarted() == options.Implicit().solver
    assert set(differing(response={"kind": "implicit", "solver": {"kind": "warm_started"}})) == {"n_steps"}


def test_what_is_off_by_default_differs_when_it_is_on():
    assert differing(folds={"count": 5}) == {"n_steps": (10, None), "folds.kind": ("folds", None)}
    assert rows()["folds"].is_default
    assert differing(outer_lr={"l2": 0.1})["outer_lr.l2"] == (0.1, None)
    trial = "018f0000-0000-7000-8000-000000000000"
    assert differing(warm_start={"trial": trial})["warm_start.trial"] == (trial, None)


@pytest.mark.parametrize(
    ("field", "cls"),
    [
        pytest.param(field, cls, id=f"{field} {cls.tag}")
        for field, family in FAMILIES.items()
        for cls in family.members.values()
    ],
)
def test_an_alternative_as_it_is_differs_by_its_tag_alone(field: str, cls: type[Option]):
    usual: Option = TrialSpec.model_fields[field].default
    tag = {f"{field}.{cls.tag_key}"}
    if type(usual) is cls:
        assert differing(**{field: usual}).keys() == {"n_steps"}
    else:
        assert differing(**{field: {cls.tag_key: cls.tag}}).keys() == {"n_steps"} | tag


def test_the_rows_are_the_options_of_trial_tables(finished):
    record = finished.trial.record
    assert {row.name: row.value for row in option_table(record.spec)} == flat_options(record.spec)
    assert option_rows([record], every=True) == [flat_options(record.spec)]
