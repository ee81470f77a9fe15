"""Trials by name, completion, and what holds for all commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import pytest
import typer
import typer.main

from nestor.cli import studies, watching
from nestor.cli.application import application
from nestor.cli.reference import reference
from nestor.schemas import LogLevel, Scope, SortOrder, StudySort, TrialSort
from nestor_server.cli import users
from testbed.server import free_port
from tests.client.shell import DOCUMENT, Shell, completed, here


@pytest.fixture(scope="module")
def waiting(server) -> tuple[Shell, dict[str, str]]:
    """Trials that stay queued, in studies with slashes in their names, by name; and the shell of their user."""
    user = server.new_token()
    shell = Shell(NESTOR_SERVER=server.url, NESTOR_TOKEN=user)
    document = json.dumps(DOCUMENT)
    ids = {}
    for name in ("a", "a/7", "a/7/b"):
        record = json.loads(shell("submit", "-", "--study", name, "--create", "--json", given=document))
        ids[f"{name}/{record['number']}"] = record["id"]
    return shell, ids


def test_a_trial_is_named_by_its_study_and_number(waiting):
    shell, ids = waiting
    for name, trial in ids.items():
        assert json.loads(shell("prioritize", name, -3, "--json"))["id"] == trial
    table = shell("resume", "a/7/0")
    assert "a/7/0" in table
    assert ids["a/7/0"] in table
    assert "'a/7' is a study, not a trial. Name one of its trials, such as 'a/7/0'." in _without_study_a(shell)
    assert "The study's trials are 0." in shell("watch", "a/7/1", code=1)


def _without_study_a(shell: Shell) -> str:
    """What is said of the study a/7 in place of a trial, once there is no study a."""
    assert "Deleted study 'a' and its 1 trial." in shell("study", "delete", "a", "--yes")
    return shell("watch", "a/7", code=1)


def test_a_shell_completes_commands_studies_and_trials(waiting):
    shell, _ = waiting
    assert completed(shell, "nestor", "stud") == ["studies", "study"]
    assert completed(shell, "nestor", "trials", "a/") == ["a/7/b", "a/7"]
    assert completed(shell, "nestor", "export", "a/7/") == ["a/7/b/0", "a/7/0"]
    away = Shell(NESTOR_SERVER=f"http://127.0.0.1:{free_port()}", NESTOR_TOKEN="x")
    assert completed(away, "nestor", "watch", "a") == []


# --- all commands ---------------------------------------------------------------------------------


def _has(command: Any, option: str) -> bool:
    return any(option in one.opts for one in command.params)


def commands() -> dict[tuple[str, ...], Any]:
    """Each command by its words."""
    group = typer.main.get_command(application()[0])
    found: dict[tuple[str, ...], Any] = {}
    for name, command in group.commands.items():  # pyright: ignore[reportAttributeAccessIssue] a group has it
        inner = getattr(command, "commands", None)
        found |= {(name, word): one for word, one in (inner or {}).items()}
        if not inner or command.invoke_without_command:
            found[name,] = command
    return found


def test_all_commands_that_end_by_themselves_have_json():
    without = {words for words, command in commands().items() if not _has(command, "--json")}
    assert without == {("up",), ("server",), ("worker",)}


@pytest.mark.parametrize("words", [words for words, command in commands().items() if _has(command, "--server")])
def test_without_a_server_each_command_says_one_sentence(words, monkeypatch, capsys, tmp_path):
    (tmp_path / "trial.json").write_text(json.dumps(DOCUMENT))
    examples = {"trial": "digits/3", "study": "s", "name": "s", "steps": 1, "priority": 1, "token": UUID(int=1)}
    examples |= {"file": tmp_path / "trial.json", "worker": "host:1", "webhook": UUID(int=1), "url": "https://a.org"}
    examples |= {"text": "A note."}
    command = commands()[words]
    given = [examples[one.name] for one in command.params if one.param_type_name == "argument"]
    options = {("submit",): ["--study", "s"], ("export",): ["--csv", str(tmp_path / "x")]}.get(words, [])
    monkeypatch.setenv("NESTOR_TOKEN", "x")
    server = f"http://127.0.0.1:{free_port()}"
    code, out, error = here(monkeypatch, capsys, *words, *given, *options, "--server", server)
    assert (code, out) == (1, "")
    assert error.startswith(f"No Nestor server answers at {server}: ")
    assert len(error.splitlines()) == 1


def test_the_words_of_options_are_those_of_the_schemas():
    assert get_args(watching.Level) == tuple(LogLevel)
    assert get_args(users.ScopeName) == tuple(Scope)
    assert get_args(studies.Direction) == tuple(SortOrder)
    assert get_args(studies.StudySorting) == tuple(StudySort)
    assert get_args(studies.TrialSorting) == tuple(TrialSort)


def test_the_start_of_a_command_loads_neither_the_schemas_nor_torch():
    code = "import sys\nfrom nestor.cli.application import application\napplication()\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"nestor.schemas", "torch", "httpx", "pandas", "sqlalchemy", "rich"} & set(run.stdout.split())


def test_a_reader_that_leaves_gets_no_traceback(shell, trial):
    with shell.popen("export", trial.id, "--json", "-") as process:
        process.stdout.close()
        error = process.stderr.read()
    assert error == ""


def test_the_reference_page_is_that_of_the_commands():
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == reference(), "run the command in its first lines"
    assert all(f"## nestor {' '.join(words)}\n" in page for words in commands())
