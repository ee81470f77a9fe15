"""Programs that an earlier version's client uploaded are loaded, and trained to what they gave there."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

import nestor_engine as engine
from nestor_engine.program import load
from nestor_engine.program.load import torch_version
from tests.engine.pins import expect, trajectory
from tests.landed import CONTINUED, SHIPPED, checkpoint_of, program_of

SHIPS: dict[str, dict[str, Any]] = json.loads(SHIPPED.read_text())
TORCH = "2.13"  # a program is bound to its version

pytestmark = pytest.mark.skipif(torch_version() != TORCH, reason=f"these programs are of torch {TORCH}")


def shipped(name: str) -> Any:
    """The problem as a worker builds it from the uploads."""
    files = {file.stem: file.read_bytes() for file in program_of(name).iterdir()}
    program = files.pop("graphs"), files.pop("tensors")
    return SimpleNamespace(bilevel=lambda: load(*program), data=engine.Data.load(files))


@pytest.mark.parametrize("name", SHIPS)
def test_a_program_of_an_earlier_version_trains_as_it_did_there(name: str):
    config = engine.restore(SHIPS[name]["config"])
    expect(trajectory(shipped(name), config), SHIPS[name]["trajectory"], close=closeness(name))


@pytest.mark.parametrize("name", SHIPS)
def test_its_checkpoint_continues_as_in_that_version(name: str):
    recorded = json.loads(CONTINUED.read_text())[name]
    found = trajectory(shipped(name), engine.restore(recorded["config"]), checkpoint_of(name).read_bytes())
    expect(found, recorded["continued"], close=closeness(name))


def closeness(name: str) -> float:
    return 1e-3 if "float32" in name else 1e-9
