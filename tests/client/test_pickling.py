"""Studies, trials, clients and errors travel to other processes; tokens and trials of this process do not."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251  # users do, or their pool of processes does
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

import nestor
from nestor import Client, errors
from nestor.errors import LocalNotPicklable, NestorError, TokenNotPickled
from nestor.remote import credentials
from tests.client.problems import ridge

LOAD = "import pickle, sys; study = pickle.load(sys.stdin.buffer); print(study.name, len(study.trials), study.id)"


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("NESTOR_CREDENTIALS", str(tmp_path / "none.json"))
    monkeypatch.delenv("NESTOR_TOKEN", raising=False)


def test_a_client_a_study_and_a_trial_come_back_as_they_were(client: Client):
    study = nestor.create_study(f"study {uuid4()}", server=client)
    trial = study.optimize(ridge(), 1, wait=False)
    assert pickle.loads(pickle.dumps(client)).server == client.server
    again = pickle.loads(pickle.dumps(study))
    assert (again.id, [one.id for one in again.trials]) == (study.id, [trial.id])
    assert pickle.loads(pickle.dumps(trial)).cancel().state.finished
    assert copy.deepcopy(study).name == study.name


def test_another_process_takes_its_own_token(client: Client, token: str, monkeypatch: pytest.MonkeyPatch):
    study = nestor.create_study(f"study {uuid4()}", server=client)
    dumped = pickle.dumps(study)
    assert token.encode() not in dumped

    def load() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, "-c", LOAD], input=dumped, capture_output=True, check=False)

    assert b"pickles do not contain tokens" in load().stderr
    monkeypatch.setenv("NESTOR_TOKEN", token)
    loaded = load()
    assert str(study.id).encode() in loaded.stdout, loaded.stderr.decode()


def test_loading_alone_needs_no_token(client: Client, monkeypatch: pytest.MonkeyPatch):
    loaded = pickle.loads(pickle.dumps(client))
    monkeypatch.setattr(credentials, "_USED", {})
    with pytest.raises(TokenNotPickled, match="Set NESTOR_TOKEN"):
        loaded.me()


@pytest.mark.parametrize(
    "of",
    [lambda study: study, lambda study: study.optimize(ridge(), 1, show_progress_bar=False)],
    ids=["study", "trial"],
)
def test_what_runs_in_this_process_cannot_be_pickled_and_says_what_can(of: Callable[[nestor.Study], object]):
    study = nestor.create_study(f"study {uuid4()}")
    with pytest.raises(LocalNotPicklable, match=r"server=…"):
        pickle.dumps(of(study))
    assert copy.deepcopy(study).id == study.id
    assert copy.copy(study).id == study.id


def test_results_and_options_can_be_pickled(finished_on_server):
    values = finished_on_server.trial.hparams
    assert dict(pickle.loads(pickle.dumps(values))).keys() == dict(values).keys()
    config = nestor.Config(n_steps=2, inner=nestor.SGD(0.1), response=nestor.Implicit())
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    "error",
    [errors.StudyNotFound(study="x"), errors.HparamNotFound(name="x", hparams=["y"]), errors.LocalNotPicklable()],
    ids=lambda error: error.code(),
)
def test_an_error_of_another_process_arrives_as_itself(error: NestorError):
    error.add_note("Detached.")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.context) == (type(error), str(error), error.context)
    assert again.__notes__ == ["Detached."]
