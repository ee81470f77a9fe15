"""Studies, on both backends."""

from __future__ import annotations

import inspect
from uuid import uuid4

import pytest

import nestor
from nestor import Study
from nestor.errors import InvalidInput, StudyExists, StudyNotFound, TrialNotFinished
from tests.client.problems import ridge


@pytest.fixture
def name() -> str:
    return f"study {uuid4()}"


def test_a_study_is_loaded_by_its_name(place, name):
    created = nestor.create_study(name, server=place, user_attrs={"a": 1}, tags=("x",))
    loaded = nestor.load_study(name, server=place)
    assert (loaded.id, loaded.name, loaded.user_attrs) == (created.id, name, {"a": 1})
    assert loaded.record.tags == ("x",)
    assert name in nestor.get_all_study_names(server=place)


def test_a_name_is_taken_once(place, name):
    first = nestor.create_study(name, server=place)
    with pytest.raises(StudyExists, match=f"already have a study named '{name}'.*load_if_exists=True"):
        nestor.create_study(name, server=place)
    assert nestor.create_study(name, server=place, load_if_exists=True).id == first.id


def test_a_name_is_made_up_when_none_is_given(place):
    assert nestor.create_study(server=place).name != nestor.create_study(server=place).name


def test_a_deleted_study_is_gone_and_its_name_is_free(place, name):
    first = nestor.create_study(name, server=place)
    nestor.delete_study(name, server=place)
    for look in (lambda: nestor.load_study(name, server=place), lambda: first.record):
        with pytest.raises(StudyNotFound, match=r"Study .* was not found"):
            look()
    assert nestor.create_study(name, server=place).id != first.id


def test_user_attributes_are_set_one_by_one(place, name):
    study = nestor.create_study(name, server=place, user_attrs={"a": 1})
    study.set_user_attr("b", ["x", {"y": None}])
    assert study.user_attrs == nestor.load_study(name, server=place).user_attrs == {"a": 1, "b": ["x", {"y": None}]}


@pytest.mark.parametrize("value", [float("nan"), object()], ids=["nan", "object"])
def test_a_value_that_json_cannot_represent_is_refused_as_a_user_attribute(place, name, value):
    study = nestor.create_study(name, server=place)
    with pytest.raises(InvalidInput, match="User attributes must be what JSON can hold"):
        study.set_user_attr("a", value)
    assert study.user_attrs == {}


def test_a_study_without_trials_has_no_best_one(place, name):
    study = nestor.create_study(name, server=place)
    assert study.trials == []
    assert study.trials_dataframe().empty
    with pytest.raises(TrialNotFinished, match=f"Study '{name}' has no trial with a recorded value yet"):
        _ = study.best_trial


def test_notebooks_show_names_as_text(place):
    study = nestor.create_study(f"<b>{uuid4()}", server=place)
    assert "&lt;b&gt;" in study._repr_html_()


def test_a_configuration_is_one_value_or_keywords_or_some_of_both(place, name):
    study = nestor.create_study(name, server=place)
    inner, response = nestor.SGD(0.2), nestor.Implicit(solver=nestor.Neumann(3))
    config = nestor.Config(n_steps=2, inner=inner, batch_size=7)
    study.optimize(ridge(), config=config, response=response, seed=3, wait=False)
    study.optimize(ridge(), 2, inner=inner, batch_size=7, response=response, seed=3, wait=False)
    options = [{field: getattr(trial.spec, field) for field in nestor.Config.model_fields} for trial in study.trials]
    assert options[0] == options[1] == dict(config) | {"response": response, "seed": 3}


def test_the_keywords_of_optimize_are_the_fields_of_a_configuration():
    signature = inspect.signature(Study.optimize).parameters
    names = list(signature)
    assert names[2] == "n_steps"
    assert names[names.index("config") + 1 : names.index("warm_start")] == list(nestor.Config.model_fields)[1:]
    for name, field in nestor.Config.model_fields.items():
        assert signature[name].default is None  # an option that is not given is the configuration's
        assert f"{name}: {field.description}." in (Study.optimize.__doc__ or "")
