"""The commands as a script calls them: output, error messages, exit codes."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from uuid import uuid4

import safetensors.numpy

import nestor
from nestor import schemas
from nestor.schemas import Scope, State
from testbed.server import free_port
from tests.client.conftest import N_STEPS, QUICK
from tests.client.problems import ridge
from tests.client.shell import STUDY, Shell


def test_studies_and_trials_are_listed(shell, trial):
    assert STUDY in shell("studies")
    studies = {study["name"]: study for study in json.loads(shell("studies", "--json"))}
    assert studies[STUDY]["trial_counts"] == {"complete": 1}
    (listed,) = json.loads(shell("trials", STUDY, "--json"))
    assert (listed["id"], listed["step"]) == (str(trial.id), N_STEPS)
    assert str(trial.id) in shell("trials", STUDY)
    assert shell("trials", STUDY).split()[-1] == "extend"  # what can be asked of it


def test_the_verdict_on_a_trial_is_shown(shell, trial):
    (listed,) = json.loads(shell("trials", STUDY, "--json"))
    assert listed["verdict"] == trial.verdict.model_dump(mode="json")
    heads, row = shell("trials", STUDY).splitlines()
    assert heads.split().index("verdict") > 0
    assert f" {trial.verdict.answer} " in row
    assert shell("study", "best", STUDY).endswith(f"verdict: {trial.verdict}\n")
    with shell.popen("watch", trial.id) as watching:
        _, error = watching.communicate(timeout=300)
    assert error.endswith(f"trial 0: verdict {trial.verdict}\n")


def test_a_trial_is_watched_to_its_end(shell, trial):
    lines = shell("watch", trial.id, "--json").splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(1, N_STEPS + 1))
    assert "complete" in shell("watch", trial.id)


def test_results_are_exported(shell, trial, tmp_path):
    tensors, table = tmp_path / "l2.safetensors", tmp_path / "steps.csv"
    shell("export", trial.id, "--safetensors", tensors, "--csv", table, "--step", 3)
    saved = safetensors.numpy.load_file(tensors)
    assert saved["l2.weight"].tolist() == trial.hparams_at(3)["l2.weight"].tolist()
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["val_loss"]) for row in rows] == [step.val_loss for step in trial.steps]
    assert float(rows[0]["val_mae"]) == trial.steps[0].val_metrics["mae"]


def test_a_running_trial_is_left_paused_resumed_and_cancelled(shell, server, token, worker):
    with nestor.Client(server.url, token) as client:
        study = nestor.create_study("steered", server=client)
        trial = study.optimize(ridge(), 1_000_000, wait=False, show_progress_bar=False)
        with shell.popen("watch", trial.id, "--json") as watching:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["number"] == 1
            watching.send_signal(signal.SIGINT)
            _, error = watching.communicate(timeout=300)
        assert watching.returncode == 130
        assert f"Detached from trial 0, which continues at {server.url}" in error
        assert trial.state is State.running

        assert json.loads(shell("pause", trial.id, "--json"))["desired"] == "pause"
        assert json.loads(shell("resume", trial.id, "--json"))["desired"] == "run"
        assert json.loads(shell("prioritize", trial.id, -5, "--json"))["priority"] == -5
        assert "ahead of other users' trials" in shell("prioritize", trial.id, 5, code=1)
        assert json.loads(shell("cancel", trial.id, "--json"))["id"] == str(trial.id)
        assert trial.wait().state is State.cancelled
        assert "cannot stop" in shell("stop", trial.id, code=1)


def test_failures_print_one_message_and_exit_1(shell, trial):
    unknown = "00000000-0000-0000-0000-000000000000"
    for words, sentence in (
        (("trials", "nowhere"), "Study 'nowhere' was not found."),
        (("watch", unknown), f"Trial '{unknown}' was not found."),
        (("watch", "nowhere/0"), "Study 'nowhere' was not found."),
        (("pause", f"{STUDY}/1"), f"Trial '{STUDY}/1' was not found. The study's trials are 0."),
        (("export", trial.id, "--safetensors", "/nowhere/file"), "No such file or directory"),
        (("export", trial.id, "--csv", "/"), "/ cannot be written: Is a directory."),
        (("export", trial.id, "--safetensors", "/dev/null", "--step", 99), "of step 99 (stored: 0, 1,"),
        (("submit", "/nowhere", "--study", STUDY), "/nowhere cannot be read: No such file or directory."),
        (("study", "create", STUDY), "You already have a study named"),
        (("study", "best", "nowhere"), "Study 'nowhere' was not found."),
        (("study", "delete", STUDY), "Pass --yes."),
        (("token", "revoke", unknown), f"Token '{unknown}' was not found. `nestor token list` lists yours."),
    ):
        (line,) = shell(*words, code=1).splitlines()
        assert sentence in line


def test_without_server_or_token_the_remedy_is_named(tmp_path):
    credentials = str(tmp_path / "credentials.json")
    assert "`nestor up` prints one" in Shell(NESTOR_CREDENTIALS=credentials)("studies", code=1)
    away = f"http://127.0.0.1:{free_port()}"
    assert f"No Nestor server answers at {away}" in Shell(NESTOR_TOKEN="x")("studies", "--server", away, code=1)


def test_mistyped_commands_exit_2(shell, trial):
    assert "No such command 'studeis'" in shell("studeis", code=2)
    for name in ("1", "digits", "digits/", "/3", "digits/x", "digits/-1", "digits/٣"):
        assert f"{name!r} does not name a trial. Write STUDY/NUMBER" in shell("watch", name, code=2)
    assert "--safetensors FILE" in shell("export", trial.id, code=2)


def test_versions_are_printed(shell, server):
    assert json.loads(shell("version", "--json", "--server", server.url)) == {"nestor": "0.1.0", "server": "0.1.0"}
    assert shell("version") == "nestor 0.1.0\n"


def test_commands_of_the_other_packages_are_merged(shell):
    assert {"up", "server", "worker", "migrate", "token", "doctor"} <= set(shell("--help").replace("│", " ").split())


def test_a_trial_is_extended_and_its_attempts_are_listed(shell, client, worker):
    trial = nestor.create_study(server=client).optimize(ridge(), 2, **QUICK)
    assert json.loads(shell("extend", trial.id, 3, "--json"))["n_steps"] == 5
    trial.refresh().wait()
    first, second = json.loads(shell("attempts", trial.id, "--json"))
    assert (first["state"], second["number"]) == ("complete", 2)
    assert "all 5 steps are taken" in shell("attempts", trial.id)
    assert "cannot retry" in shell("retry", trial.id, code=1)


# --- studies --------------------------------------------------------------------------------------


def test_a_study_is_created_shown_and_deleted(shell, trial):
    name = f"study {uuid4()}"
    words = ("study", "create", name, "--tag", "x", "--attr", "lr=0.1", "--attr", "who=me=you", "--json")
    made = json.loads(shell(*words))
    assert (made["name"], made["tags"], made["user_attrs"]) == (name, ["x"], {"lr": 0.1, "who": "me=you"})
    assert json.loads(shell(*words, "--load-if-exists"))["id"] == made["id"]
    assert "has no trial with a recorded value yet" in shell("study", "best", name, code=1)
    assert json.loads(shell("study", "best", STUDY, "--json"))["id"] == str(trial.id)
    assert json.loads(shell("study", "delete", name, "--yes", "--json")) == {"study": name, "trials": 0}
    assert "was not found" in shell("trials", name, code=1)
    assert "'novalue' is not KEY=VALUE" in shell("study", "create", name, "--attr", "novalue", code=2)


# --- what a trial does ----------------------------------------------------------------------------


def test_the_log_of_a_trial_is_printed(shell, trial):
    lines = [json.loads(line) for line in shell("logs", trial.id, "--json").splitlines()]
    expected = [event.data["text"] for event in trial.events() if event.type == "log"]
    assert [line["text"] for line in lines] == expected != []
    assert lines[0]["text"] in shell("logs", f"{STUDY}/0")
    urgent = [line for line in lines if line["level"] != "info"]
    followed = shell("logs", trial.id, "--follow", "--level", "warning", "--json").splitlines()
    assert [json.loads(line) for line in followed] == urgent


def test_workers_are_listed_with_their_devices(shell, worker):
    found = json.loads(shell("workers", "--json"))
    assert {one["device"] for one in found["items"]} == {"cpu"}
    assert all(one["versions"].keys() == {"nestor", "torch"} for one in found["items"])
    assert f"{found['queued']} trials wait" in shell("workers") or found["queued"] == 1


def test_tokens_are_listed_and_revoked(server):
    with nestor.Client(server.url, server.new_token(scope=Scope.admin)) as client:
        made = client.create_token(nestor.schemas.TokenCreate(name="ci", scope=Scope.admin, expires_in_days=3))
    shell = Shell(NESTOR_SERVER=server.url, NESTOR_TOKEN=made.token)
    assert [one["name"] for one in json.loads(shell("token", "list", "--json"))] == ["token", "ci"]
    assert str(made.id) in shell("token", "list")
    assert shell("token", "revoke", made.id) == f"Revoked token {made.id}.\n"
    assert "this token was revoked" in shell("token", "list", code=1)


def test_a_trial_is_confirmed_beside_its_own_numbers(shell, client, worker):
    preset = {"model": {"kind": "mlp", "hidden": [8]}, "train_size": 100, "val_size": 50, "label_noise": 0.4}
    preset["hyperparameters"] = [{"kind": "l2"}, {"kind": "example_weights"}]
    spec = {"problem": {"preset": preset}, "n_steps": 3, "inner_steps": 2, "seed": 3}
    study = client.create_study(schemas.StudyCreate(name="confirmed"))
    tuned = client.create_trial(study.id, schemas.build(schemas.TrialCreate, spec))
    shell("watch", "confirmed/0")

    os.kill(worker.pid, signal.SIGSTOP)  # or the trainings could end before the signal arrives
    with shell.popen("confirm", "confirmed/0", "--seeds", 1) as confirming:
        while not client.confirmation(tuned.id).runs:
            time.sleep(0.1)
        confirming.send_signal(signal.SIGINT)
        _, error = confirming.communicate(timeout=300)
    os.kill(worker.pid, signal.SIGCONT)
    assert confirming.returncode == 130
    assert f"The trainings continue at {client.server}. Run the same command again" in error

    head, own, alone, together = shell("confirm", "confirmed/0", "--seeds", 1).splitlines()
    assert "test accuracy" in head
    assert own.startswith("as tuned, step 3")
    assert alone.startswith("trained on train ")
    assert together.startswith("trained on train+val ")
    document = json.loads(shell("confirm", "confirmed/0", "--seeds", 1, "--on", "train", "--json"))
    assert document["trial"] == str(tuned.id)
    assert [(run["on"], run["state"]) for run in document["runs"]] == [("train", "complete"), ("train+val", "complete")]
    assert all(0 < run["test_metrics"]["accuracy"] <= 1 for run in document["runs"])


def test_a_trial_is_asked_for_its_truth(shell, client, worker):
    preset = {"model": {"kind": "mlp", "hidden": [8]}, "train_size": 100, "val_size": 50}
    spec = {"problem": {"preset": preset}, "n_steps": 3, "inner_steps": 2, "seed": 3}
    study = client.create_study(schemas.StudyCreate(name="true"))
    tuned = client.create_trial(study.id, schemas.build(schemas.TrialCreate, spec))
    shell("watch", "true/0")

    os.kill(worker.pid, signal.SIGSTOP)  # or the trainings could end before the command does
    waiting = "0 of 5 retrainings are complete. A score needs 5, and the training under unchanged hyperparameters."
    assert shell("truth", "true/0", "--retrainings", 5, "--no-wait") == f"{waiting}\n"
    os.kill(worker.pid, signal.SIGCONT)
    sentence = shell("truth", "true/0", "--retrainings", 5).strip()
    assert "retraining gives: its score over 5 retrainings is" in sentence
    document = json.loads(shell("truth", "true/0", "--retrainings", 5, "--json"))
    assert (document["trial"], document["sentence"]) == (str(tuned.id), sentence)
    assert [(run["nudge"], run["state"]) for run in document["runs"]] == [
        (nudge, "complete") for nudge in (None, 0, 1, 2, 3, 4)
    ]
