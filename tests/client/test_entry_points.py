"""The package in examples/plugin, installed with pip and run on a worker: through Python, REST and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from sqlalchemy import select, update
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

import nestor
from nestor import Client, EntryPoint
from nestor.errors import EntryPointNotFound, EntryPointParamUnknown, NotExportable
from nestor.schemas import State
from nestor_server import models
from testbed.api import Api
from testbed.server import Server, wait_for
from testbed.worker import Worker, running_worker
from tests.client.conftest import QUICK

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"
MOONS = EntryPoint("nestor_moons:settling", width=8, n=60)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("plugin")
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(PLUGIN)], check=True)
    return target


@pytest.fixture(scope="module")
def with_moons(server: Server, worker: Worker, site: Path) -> Iterator[Worker]:
    """A worker that has the package, beside one that does not."""
    del worker
    with running_worker(server, PYTHONPATH=site, NESTOR_CHECKPOINT_SECONDS=0.2, NESTOR_CONCURRENCY=2) as found:
        yield found


@pytest.fixture
def importable(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))


def test_the_example_is_listed_with_its_parameters(with_moons: Worker, client: Client, server: Server, token: str):
    (info,) = client.presets().entry_points
    assert (info.entry_point, info.package, info.error) == ("nestor_moons:settling", "nestor-moons 0.1.0", None)
    assert info.description == "A layer that is repeated until its output settles, with a decay for every weight."
    assert {one.name: one.default for one in info.parameters} == {"width": 16, "n": 200, "noise": 0.2, "seed": None}
    (digits,) = client.presets().presets
    assert {"model", "dataset", "hyperparameters"} <= digits.json_schema["properties"].keys()
    with server.http(token) as http:
        listed = http.get("/presets").json()
    assert listed["entry_points"] == [info.model_dump(mode="json")]

    environment = os.environ | {"NESTOR_TOKEN": token, "COLUMNS": "200"}
    command = [sys.executable, "-m", "nestor", "presets", "--server", server.url]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "nestor_moons:settling" in shown
    assert "width=16" in shown
    assert "digits" in shown


def test_a_trial_of_the_example_equals_one_in_this_process(with_moons: Worker, client: Client, importable: None):
    here, there = nestor.create_study(), nestor.create_study(f"moons {uuid4()}", server=client)
    trials = [study.optimize(MOONS, 10, **QUICK, seed=3) for study in (here, there)]
    values = [[(step.val_loss, step.val_metrics, step.hypergradient_norm) for step in trial.steps] for trial in trials]
    assert values[0] == values[1]
    assert [trial.spec.problem for trial in trials] == [MOONS.problem, MOONS.problem]
    logs = [event.data["text"] for event in client.events(trials[1].id) if event.type == "log"]
    assert "the problem is of nestor-moons 0.1.0" in logs

    from nestor_moons import Settling  # pyright: ignore[reportMissingImports] installed by a fixture

    models = [Settling(8), Settling(8)]
    for trial, model in zip(trials, models, strict=True):
        assert trial.load_weights(model) == 10
    assert all(torch.equal(a, b) for a, b in zip(*(model.state_dict().values() for model in models), strict=True))
    more = there.optimize(MOONS, 2, **QUICK, warm_start=trials[1])
    assert more.steps[0].train_loss < trials[1].steps[0].train_loss  # it goes on from the weights


def test_the_example_cannot_be_exported(importable: None):
    problem: Any = MOONS.build()
    with pytest.raises(NotExportable, match=r"Settling.*control flow"):
        problem.export()


def test_a_trial_through_rest_that_is_paused_and_resumed_ends_like_one_that_is_not(
    with_moons: Worker, server: Server, token: str, importable: None
):
    # A clock decides when an attempt to trace the loss is made, and a warning says that it failed.
    body = {"problem": MOONS.problem.model_dump(), "inner_steps": 3, "seed": 3, "trace": False}
    body["outer"] = {"optimizer": "adam", "lr": 0.3}  # 'auto' depends on n_steps, which changes here
    body["evaluate_every"] = 1  # a pause evaluates the step after which it takes effect
    with server.http(token) as http:
        api = Api(http, server)
        trial = api.submit(10_000, **body)
        wait_for(lambda: api.trial(trial)["step"] > 0, "a step")
        api.ask(trial, "pause")
        paused = api.until(trial, "paused")
        assert paused["worker"] is None
        with server.sessions.begin() as session:  # a trial of 10,000 steps can be paused before its end
            session.execute(update(models.Trial).where(models.Trial.id == trial).values(n_steps=paused["step"] + 20))
        api.ask(trial, "resume")
        done = api.until(trial, "complete", "failed")
        assert done["error"] is None
        assert done["attempt"] == 2
        whole = api.submit(done["step"], **body)
        assert api.until(whole, "complete", "failed")["error"] is None
        assert api.steps(trial) == api.steps(whole)
        assert api.last_checkpoint(trial) == api.last_checkpoint(whole)

        extended = api.ask(whole, "extend", {"steps": 5})
        assert api.until(extended["id"], "complete")["step"] == done["step"] + 5


def test_a_trial_waits_for_a_worker_that_has_the_package(with_moons: Worker, client: Client, server: Server):
    """Its message is not read by the other worker, which would claim nothing."""
    study = nestor.create_study(f"moons {uuid4()}", server=client)
    trials = [study.optimize(MOONS, 2, **QUICK, wait=False) for _ in range(2)]
    for trial in trials:
        trial.wait()
    with server.sessions() as session:
        sent_again = select(models.Trial.id).where(models.Trial.sent_at > models.Trial.queued_at)
        assert not set(session.scalars(sent_again)) & {trial.id for trial in trials}
    workers = {str(attempt.worker) for trial in trials for attempt in client.attempts(trial.id)}
    assert all(f":{with_moons.pid}/" in name for name in workers)


@pytest.mark.parametrize(
    ("problem", "code", "sentence"),
    [
        ({"entry_point": "os:system", "params": {"command": "true"}}, "entry-point-not-found", "nestor_moons:settling"),
        ({"entry_point": "nestor_moons:other"}, "entry-point-not-found", "with pip"),
        ({"entry_point": "nestor_moons:settling", "params": {"wdith": 3}}, "entry-point-param-unknown", "'width'"),
        ({"entry_point": "settling"}, "validation-failed", "such as package:factory"),
        ({"entry_point": "nestor_moons:settling", "params": [3]}, "validation-failed", "dictionary"),
        ({"params": {}}, "validation-failed", "entry_point"),
        ({"entry_point": "nestor_moons:settling", "code": "…"}, "validation-failed", "unknown"),
        ({}, "validation-failed", '{"entry_point": …}'),
    ],
)
def test_a_wrong_submission_is_refused(with_moons: Worker, server: Server, token: str, problem, code, sentence):
    with server.http(token) as http:
        study = http.post("/studies", json={"name": f"wrong {uuid4()}"}).json()["id"]
        answer = http.post(f"/studies/{study}/trials", json={"problem": problem, "n_steps": 1})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert sentence in answer.json()["detail"]


def test_python_raises_what_the_server_refuses(with_moons: Worker, client: Client):
    study = nestor.create_study(f"moons {uuid4()}", server=client)
    with pytest.raises(EntryPointNotFound, match="not installed on a running worker"):
        study.optimize(EntryPoint("moons:settling"), 1)
    with pytest.raises(EntryPointParamUnknown, match="'depth'"):
        study.optimize(EntryPoint("nestor_moons:settling", depth=1), 1)
    assert study.trials == []


def test_a_factory_that_fails_on_the_worker_fails_the_trial_with_a_sentence(with_moons: Worker, client: Client):
    study = nestor.create_study(f"moons {uuid4()}", server=client)
    with pytest.raises(nestor.errors.TrialFailed, match=r"'nestor_moons:settling' failed.*TypeError"):
        study.optimize(EntryPoint("nestor_moons:settling", width="wide"), 1, **QUICK)
    (trial,) = study.trials
    assert trial.state is State.failed
    assert (trial.record.error or {})["code"] == "entry-point-failed"


WITHOUT_TORCH = """
import sys, nestor
sys.modules["torch"] = None  # importing it fails
study = nestor.create_study("without torch", server=sys.argv[1])
trial = study.optimize(nestor.EntryPoint("nestor_moons:settling", width=8, n=60), 1, wait=False)
print(trial.wait(show_progress_bar=False).state.value)
"""


def test_the_client_needs_neither_the_package_nor_torch(with_moons: Worker, server: Server, token: str):
    environment = os.environ | {"NESTOR_TOKEN": token}
    command = [sys.executable, "-c", WITHOUT_TORCH, server.url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "complete\n", done.stderr


def _shell(example: Example) -> None:
    subprocess.run(["bash", "-euc", example.parsed], check=True)


def test_the_code_on_the_page_runs(
    with_moons: Worker, server: Server, token: str, importable: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NESTOR_URL", server.url)
    monkeypatch.setenv("NESTOR_TOKEN", token)
    parsers = [SkipParser(), PythonCodeBlockParser(), CodeBlockParser("bash", _shell)]
    page = Sybil(parsers).parse(PLUGIN.parents[1] / "docs" / "entry_points.md")
    for example in page.examples():
        example.evaluate()
    assert page.namespace["trial"].state is State.complete
    with Client(server.url, token) as client:
        (trial,) = client.trials(client.find_study("moons from the shell").id)
    assert trial.spec.problem == MOONS.problem
