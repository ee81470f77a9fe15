"""openapi-python-client, which many use, makes a client of the whole API, and a program tunes with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.contract import document
from tests.clients.conftest import documented, expect_a_whole_trial

PROGRAM = Path(__file__).with_name("tune.py")


@pytest.fixture(scope="module")
def generated(description: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the generated package `nestor_rest`."""
    folder = tmp_path_factory.mktemp("generated")
    subprocess.run(["bash", "-c", documented("echo")], cwd=folder, check=True)
    generate = documented("openapi-python-client").replace("--url $NESTOR_URL/openapi.json", f"--path {description}")
    done = subprocess.run(
        ["bash", "-c", f"{generate} --fail-on-warning"],
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


def test_every_operation_has_a_function(generated: Path):
    functions = {path.stem for path in (generated / "nestor_rest" / "api").rglob("*.py")} - {"__init__"}
    operations = [one["operationId"] for operations in document()["paths"].values() for one in operations.values()]
    assert functions == set(operations)


def test_a_program_drives_a_trial_from_its_submission_to_its_bytes(generated: Path, run):
    result = run(sys.executable, PROGRAM, cwd=generated, PYTHONPATH=str(generated))
    expect_a_whole_trial(result)
