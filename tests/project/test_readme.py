"""The README is true: its code runs, in this process and against a real server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from nestor.client import Client
from nestor.schemas import State
from tests.support.server import Server

README = Path(__file__).parents[2] / "README.md"


def _shell(example: Example) -> None:
    done = subprocess.run(["bash", "-euc", example.parsed], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def readme(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Document]:
    monkeypatch.setitem(os.environ, "NESTOR_URL", server.url)
    monkeypatch.setitem(os.environ, "NESTOR_TOKEN", server.token)
    parsers = [SkipParser(), PythonCodeBlockParser(), CodeBlockParser("bash", _shell)]
    return Sybil(parsers).parse(README)


def test_the_code_in_the_readme_runs(readme: Document, server: Server):
    for example in readme.examples():
        example.evaluate()

    assert readme.namespace["decays"].shape == (64, 20)
    with Client(server.url, token=server.token) as client:
        (trial,) = client.trials(client.find_study("from the shell").id)
    assert trial.n_steps == 30
    assert trial.state in (State.queued, State.running, State.complete)
