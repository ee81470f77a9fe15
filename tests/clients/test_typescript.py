"""openapi-typescript makes types of the whole API, with which a strict program tunes; the types refuse mistakes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from testbed.node import NODE, NPM, node
from tests.clients.conftest import documented, expect_a_whole_trial

SOURCE = Path(__file__).with_name("typescript")


@pytest.fixture(scope="module")
def project(description: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program, the pinned packages, and the types of the API in nestor.ts."""
    folder = tmp_path_factory.mktemp("typescript") / "project"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("node_modules"))
    installed = node(folder, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    npx, generator, url, *options = documented("npx").split()
    assert (npx, url) == ("npx", "$NESTOR_URL/openapi.json")
    generated = node(folder, f"node_modules/.bin/{generator}", description, *options)
    assert generated.returncode == 0, generated.stdout + generated.stderr
    return folder


def test_a_strict_program_is_well_typed_and_one_with_mistakes_is_not(project: Path):
    checked = node(project, "node_modules/.bin/tsc", "--project", ".")
    assert checked.returncode == 0, checked.stdout
    wrong = project / "wrong.ts"
    program = (project / "tune.ts").read_text()
    for right, mistake in (
        ('"neumann", terms', '"neumann", term'),
        ('"number", "val_loss"', '"nmber"'),
        ("ended.state", "ended.stat"),
    ):
        wrong.write_text(program.replace(right, mistake))
        assert wrong.read_text() != program
        options = ["--strict", "--noEmit", "--target", "es2024", "--module", "nodenext", "--allowImportingTsExtensions"]
        checked = node(project, "node_modules/.bin/tsc", *options, "--types", "node", "wrong.ts")
        assert "error TS" in checked.stdout, mistake


def test_a_program_drives_a_trial_from_its_submission_to_its_bytes(project: Path, run):
    result = run(NODE, "tune.ts", cwd=project)
    expect_a_whole_trial(result)
