"""Documents that the commands read, and results that they write."""

from __future__ import annotations

import csv
import io
import json
import sys
from uuid import UUID, uuid4

import pytest
import safetensors.torch
import torch

import nestor
from nestor.schemas import Step
from tests.client.problems import ridge
from tests.client.shell import DOCUMENT, STUDY, here, in_terminal

# --- submission -----------------------------------------------------------------------------------


def test_a_document_becomes_a_trial(shell, server, token, tmp_path):
    study, file = f"study {uuid4()}", tmp_path / "trial.json"
    file.write_text("\ufeff" + json.dumps(DOCUMENT), encoding="utf-8")
    assert f"Study '{study}' was not found." in shell("submit", file, "--study", study, code=1)
    name, trial = shell("submit", file, "--study", study, "--create").strip().split("  ")
    assert name == f"{study}/0"
    with nestor.Client(server.url, token) as client:
        record = client.trial(UUID(trial))
    assert (record.spec.n_steps, record.user_attrs) == (5, {"k": [1]})


def test_a_submitted_trial_is_watched(shell, worker):
    document = {"problem": {"preset": {"train_size": 50, "val_size": 20}}, "n_steps": 2, "inner_steps": 1}
    words = ("submit", "-", "--study", f"study {uuid4()}", "--create", "--watch", "--json")
    record, *steps = map(json.loads, shell(*words, given=json.dumps(document)).splitlines())
    assert (record["number"], [step["number"] for step in steps]) == (0, [1, 2])


MISTAKES = [
    ("", "standard input is not a JSON object: line 1, column 1: expecting value."),
    ("[1]", "it holds [1]."),
    ('{"n_steps": 1,}', "line 1, column 15:"),
    ('{"n_steps": 1, "n_steps": 2}', "the name 'n_steps' occurs twice"),
    ('{"n_steps": NaN}', "NaN is not a number in JSON"),
    ("[" * 100_000, "it is nested too deeply"),
    ("{}", "problem is missing.\nn_steps is missing."),
    ('{"problem": {"preset": {}}, "n_steps": 0}', "n_steps=0: it must be at least 1"),
    ('{"problem": {"preset": {"model": {"hidden": [-2]}}}, "n_steps": 1}', "problem.preset.model.hidden.0=-2: it must"),
    ('{"problem": {"preset": {}}, "n_steps": 1, "studdy": 1}', "studdy: there is no such option."),
    ('{"problem": {"program": "x", "dataset": 1}, "n_steps": 1}', "problem.program='x': it must be a UUID."),
]


@pytest.mark.parametrize(("document", "sentence"), MISTAKES)
def test_a_mistake_in_a_document_is_found_before_anything_is_sent(document, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(document.encode())))
    monkeypatch.setenv("NESTOR_SERVER", "http://127.0.0.1:1")
    code, out, error = here(monkeypatch, capsys, "submit", "-", "--study", "s")
    assert (code, out) == (1, "")
    assert sentence in error


# --- results --------------------------------------------------------------------------------------


def test_steps_go_to_standard_output_as_csv_whose_nested_cells_are_json(shell, trial):
    for words in (("--csv", "-"), ("--csv",)):
        rows = list(csv.DictReader(io.StringIO(shell("export", f"{STUDY}/0", *words))))
        for row, step in zip(rows, trial.steps, strict=True):
            summaries = {name: summary.model_dump() for name, summary in step.hyperparameters.items()}
            assert json.loads(row["hyperparameters"]) == summaries
            assert json.loads(row["warnings"]) == list(step.warnings)
            assert json.loads(row["traced"]) is step.traced
            assert float(row["val_loss"]) == step.val_loss


def test_a_trial_is_exported_as_one_json_document(shell, trial, tmp_path):
    assert shell("export", trial.id, "--json", tmp_path / "trial.json") == f"{tmp_path / 'trial.json'}\n"
    document = json.loads((tmp_path / "trial.json").read_text())
    assert document["trial"]["id"] == str(trial.id)
    assert [Step.model_validate(step) for step in document["steps"]] == trial.steps
    assert json.loads(shell("export", trial.id, "--json")) == document


def test_weights_are_exported_by_their_names_in_the_model(shell, trial, tmp_path):
    (tmp_path / "weights").write_text("of an earlier export")
    shell("export", trial.id, "--weights", tmp_path / "weights")
    model = ridge().model
    trial.load_weights(model)
    saved = safetensors.torch.load_file(tmp_path / "weights")
    assert saved.keys() == dict(model.named_parameters()).keys()
    for name, weight in model.named_parameters():
        assert torch.equal(saved[name], weight)
    best = tmp_path / "best.safetensors"
    shell("export", trial.id, "--safetensors", best, "--step", "best")
    at_best = trial.hparams_at(trial.best_step)
    assert torch.equal(safetensors.torch.load_file(best)["l2.weight"], at_best["l2.weight"])
    with shell.popen("export", trial.id, "--weights", "-", text=False) as process:
        out, _ = process.communicate(timeout=60)
    assert out == (tmp_path / "weights").read_bytes()


def test_formats_that_contradict_each_other_are_refused(shell, trial):
    assert "Only one format can be written to standard output" in shell("export", trial.id, "--csv", "--json", code=2)
    assert "Pass one of --safetensors, --weights, --rater, too." in shell(
        "export", trial.id, "--csv", "x", "--step", "1", code=2
    )
    assert "'-1' is neither a number nor best" in shell("export", trial.id, "--weights", "--step", "-1", code=2)


def test_tables_fit_a_terminal_of_80_columns_and_bytes_are_kept_from_it(shell, trial):
    code, written = in_terminal(shell, "export", trial.id, "--safetensors", "-")
    assert (code, written.split(",")[0]) == (1, "Hyperparameters are binary")
    for words in (("trials", STUDY), ("studies",), ("attempts", f"{STUDY}/0"), ("workers",), ("logs", f"{STUDY}/0")):
        code, written = in_terminal(shell, *words)
        assert code == 0
        if words[0] != "logs":
            assert max(map(len, written.splitlines())) <= 80
    row = next(line for line in in_terminal(shell, "trials", STUDY)[1].splitlines() if f"{STUDY}/0" in line)
    assert row.split()[-1] == "extend"  # in one line
