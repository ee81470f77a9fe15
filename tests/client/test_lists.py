"""What a client lists, copies, restores and notes; the first tests hold in this process as well."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from torch.testing import assert_close

import nestor
from nestor import Client
from nestor.errors import (
    ArgumentInvalid,
    ChoiceUnknown,
    OptionTypeWrong,
    StudyNameTaken,
    StudyNotDeleted,
    StudyNotFound,
    TrialNumberNotFound,
)
from nestor.schemas import State, TrialPatch
from tests.client.conftest import QUICK
from tests.client.problems import ridge


def name() -> str:
    return f"study {uuid4()}"


# --- in both places -------------------------------------------------------------------------------


def test_notes_are_written_by_their_user(new_study):
    study = new_study(note="# first")
    assert study.note == "# first"
    study.set_note("second *é*")
    assert (study.note, study.tags) == ("second *é*", ())
    study.set_tags(["a"])
    assert study.note == "second *é*"
    for wrong in ("x" * 65_537, 5, "a\0b"):
        with pytest.raises(nestor.errors.InvalidInput):
            study.set_note(wrong)
    study.set_note("")
    assert study.note == ""


def test_a_trial_has_a_note_from_its_submission_on(new_study):
    trial = new_study().optimize(ridge(), 1, **QUICK, note="why")
    assert (trial.note, trial.record.note) == ("why", "why")
    trial.set_note("because")
    assert trial.note == "because"
    assert "note" not in trial.spec.model_dump()


def test_a_study_is_copied_with_its_finished_trials(finished, place):
    source, new_name = finished.study, name()
    made = nestor.copy_study(from_study_name=source.name, to_study_name=new_name, server=place)
    assert (made.name, made.record.direction) == (new_name, source.record.direction)
    there, copied = source.trials, made.trials
    ended = [trial for trial in there if trial.state.finished]
    assert [trial.number for trial in copied] == [*range(len(ended))]
    for one, other in zip(ended, copied, strict=True):
        assert one.steps == other.steps
        assert one.id != other.id
        assert_close(dict(one.hparams), dict(other.hparams), rtol=0, atol=0)
        for hparam in one.hparams:
            summary = one.hparam_summary(hparam)
            assert summary == other.hparam_summary(hparam)
            assert summary.distributions.number == ([0, *range(1, one.record.step + 1)] if "weight" in hparam else [])
    assert made.best_value == source.best_value
    frames = [study.trials_dataframe().drop(columns="number") for study in (source, made)]
    assert frames[0].to_dict("records")[: len(ended)] == frames[1].to_dict("records")
    with pytest.raises(StudyNameTaken):
        nestor.copy_study(from_study_name=source.name, to_study_name=new_name, server=place)
    with pytest.raises(StudyNotFound):
        nestor.copy_study(from_study_name=name(), to_study_name=name(), server=place)


def test_a_copied_trial_goes_on_by_itself(new_study, place):
    source = new_study()
    trial = source.optimize(ridge(), 4, **QUICK)
    made = nestor.copy_study(from_study_name=source.name, to_study_name=name(), server=place)
    copied = made.trial(0)
    copied.extend(3)
    copied.wait(show_progress_bar=False)
    trial.extend(3)
    trial.wait(show_progress_bar=False)
    assert (len(copied.steps), copied.state) == (7, State.complete)
    assert [step.val_loss for step in copied.steps] == [step.val_loss for step in trial.steps]
    source.optimize(ridge(), 1, **QUICK)
    assert len(made.trials) == 1


# --- on a server ----------------------------------------------------------------------------------


def test_studies_are_listed_by_what_they_are(client: Client):
    mark, ids = str(uuid4()), []
    for n, tags in enumerate((["a"], ["a", "b"], [])):
        ids.append(nestor.create_study(f"{mark} {n}", server=client, tags=tags, note=f"{mark} note").id)
    listed = lambda **how: [study.id for study in client.studies(q=mark, **how)]
    assert listed() == ids[::-1]
    assert listed(sort="name", order="asc") == ids
    assert listed(tags=["a"]) == [ids[1], ids[0]]
    assert listed(tags=["b", "a"]) == [ids[1]]
    assert listed(states=["running"]) == listed(states=iter(())) == []
    assert listed(states=None) == ids[::-1]
    assert [study.id for study in client.studies(name=f"{mark} 1")] == [ids[1]]
    for wrong in ({"sort": "size"}, {"order": "up"}):
        with pytest.raises(ChoiceUnknown):
            listed(**wrong)
    for wrong in ({"states": ["done"]}, {"states": ""}, {"tags": "a"}):
        with pytest.raises(ArgumentInvalid, match=r"Client\.studies: "):
            listed(**wrong)
    with pytest.raises(OptionTypeWrong, match="deleted=1: it must be True or False"):
        listed(deleted=1)


def test_trials_are_listed_by_number_and_in_any_order(client: Client, finished_on_server):
    study = nestor.copy_study(from_study_name=finished_on_server.study.name, to_study_name=name(), server=client)
    for n in range(4):
        trial = study.optimize(ridge(), 1, **QUICK, wait=False, tags=["even"] if n % 2 == 0 else [])
        trial.cancel()
    numbers = lambda **how: [trial.number for trial in client.find_trials(study.id, **how)]
    n = len(study.trials)
    assert [trial.number for trial in study.trials] == [*range(n)]
    assert numbers() == [*range(n)][::-1]
    assert numbers(tags=["even"], order="asc") == [n - 4, n - 2]
    assert numbers(states=[State.complete]) == [trial.number for trial in study.get_trials(["complete"])][::-1]
    assert numbers(sort="best_value", order="asc")[0] == study.best_trial.number
    client.change_trial(study.trial(1).id, TrialPatch(note="needle"))
    assert numbers(q="NEEDLE") == [1]
    with pytest.raises(TrialNumberNotFound):
        study.trial(n)
    with pytest.raises(ArgumentInvalid, match=r"Client\.find_trials: "):
        numbers(states="")


def test_no_states_are_those_of_no_trial(place, finished):
    backend, study = finished.study._backend, finished.study.id
    assert backend.trials(study, None) == backend.trials(study) == backend.trials(study, iter(State))
    for none in ((), [], iter(()), set()):
        assert backend.trials(study, none) == []
    with pytest.raises(ArgumentInvalid, match=r"\.trials: states is ''"):
        backend.trials(study, "")


def test_a_deleted_study_comes_back(client: Client):
    study = nestor.create_study(name(), server=client, tags=["kept"])
    nestor.delete_study(study.name, server=client)
    assert [one.id for one in client.studies(deleted=True, name=study.name)] == [study.id]
    other = nestor.create_study(study.name, server=client)
    with pytest.raises(StudyNameTaken, match="new_name"):
        client.restore_study(study.id)
    restored = client.restore_study(study.id, f"{study.name} again")
    assert (restored.id, restored.tags) == (study.id, ("kept",))
    with pytest.raises(StudyNotDeleted):
        client.restore_study(other.id, name())


def test_an_empty_name_restores_nothing(client: Client, shell):
    study = nestor.create_study(name(), server=client)
    nestor.delete_study(study.name, server=client)
    assert list(client.studies(name="", deleted=True)) == []
    assert "Study '' was not found." in shell("study", "restore", "", code=1)
    assert study.id in [one.id for one in client.studies(deleted=True)]


def test_commands_copy_restore_note_and_sort(client: Client, shell):
    one, two = sorted((name(), name()))
    shell("study", "create", one, "--tag", "x")
    assert shell("study", "note", one, "# *why*").strip() == "# *why*"
    assert shell("study", "note", one).strip() == "# *why*"
    shell("study", "copy", one, two)
    listed = json.loads(shell("studies", "--q", "WHY", "--tag", "x", "--sort", "name", "--order", "asc", "--json"))
    assert [study["name"] for study in listed if study["name"] in (one, two)] == [one, two]
    shell("study", "delete", one, "--yes")
    assert one in [study["name"] for study in json.loads(shell("studies", "--deleted", "--json"))]
    assert shell("study", "restore", one, "--name", f"{one} b").strip() == f"{one} b"
    assert client.find_study(f"{one} b").note == "# *why*"
    assert json.loads(shell("trials", two, "--sort", "seconds", "--order", "desc", "--json")) == []
