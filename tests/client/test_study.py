"""Studies, on both backends."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from uuid import uuid4

import pytest

import nestor
from nestor import Client, Study
from nestor.errors import IllegalTransition, InvalidInput, StudyExists, StudyNotFound, TrialNotFinished, TrialNotFound
from nestor.schemas import State
from testbed.server import wait_for
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


def test_twelve_clients_set_twelve_attributes(place, name, token):
    nestor.create_study(name, server=place)
    barrier = threading.Barrier(12)

    def set_one(n: int) -> None:
        server = None if place is None else Client(place.server, token)
        study = nestor.load_study(name, server=server)
        barrier.wait()
        study.set_user_attr(f"k{n}", {"n": n})

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(set_one, range(12)))
    assert nestor.load_study(name, server=place).user_attrs == {f"k{n}": {"n": n} for n in range(12)}


def test_an_attribute_is_set_as_a_whole_and_tags_are_replaced(place, name):
    study = nestor.create_study(name, server=place, tags=("x",))
    for value in ({"x": 1}, {"y": None}, None):
        study.set_user_attr("a", value)
        assert study.user_attrs == {"a": value}
    study.set_tags(["y", "z"])
    assert study.tags == nestor.load_study(name, server=place).tags == ("y", "z")


def test_a_trial_is_found_by_its_number_and_by_its_id(place, name):
    study = nestor.create_study(name, server=place)
    first, second = (study.optimize(ridge(), 1, wait=False, show_progress_bar=False) for _ in range(2))
    assert study.trial(1).id == study.get_trial(1).id == second.id
    assert study.get_trial(first.id).number == study.get_trial(str(first.id)).number == 0
    assert nestor.get_trial(first.id, server=place).number == 0
    for missing in (lambda: study.trial(2), lambda: study.trial(-1), lambda: nestor.get_trial(uuid4(), server=place)):
        with pytest.raises(TrialNotFound, match=r"Trial .* was not found"):
            missing()
    with pytest.raises(TrialNotFound):
        nestor.create_study(server=place).get_trial(first.id)
    for wrong in (
        lambda: study.trial(cast(Any, "x")),
        lambda: study.trial(True),
        lambda: nestor.get_trial("x", server=place),
    ):
        with pytest.raises(InvalidInput, match=r"pass a trial's id|whole number"):
            wrong()


def test_a_pruned_trial_is_listed_as_such(place, name):
    study = nestor.create_study(name, server=place)
    trial = study.optimize(ridge(), 100_000, show_progress_bar=False, wait=False).prune()
    wait_for(lambda: trial.state.finished, "the end")
    assert [trial.state for trial in study.get_trials(states=["pruned"])] == [State.pruned]
    assert study.record.trial_counts == {"pruned": 1}
    assert study.trials_dataframe()["state"].tolist() == ["pruned"]
    with pytest.raises(IllegalTransition, match=r"A trial that is pruned cannot resume\. From here it can: extend"):
        trial.resume()


def test_trials_are_listed_by_state(place, name):
    from optuna.trial import TrialState

    study = nestor.create_study(name, server=place)
    trials = [study.optimize(ridge(), 100_000, show_progress_bar=False, wait=False) for _ in range(2)]
    trials[0].cancel()
    wait_for(lambda: trials[0].state.finished, "the end")
    assert [trial.number for trial in study.get_trials(states=[State.cancelled])] == [0]
    assert [trial.number for trial in study.get_trials(states={"cancelled", *State})] == [0, 1]
    assert study.get_trials(states=()) == study.get_trials(states=(TrialState.FAIL, TrialState.PRUNED)) == []
    assert [trial.number for trial in study.get_trials()] == [trial.number for trial in study.trials] == [0, 1]
    for wrong in ("complete", ["done"], 3):
        with pytest.raises(InvalidInput, match="Pass a list of 'queued', 'running'"):
            study.get_trials(states=cast(Any, wrong))


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
