"""Checkpoints that an earlier version wrote go on as they would have gone on there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import nestor_engine as engine
from tests.engine.pins import expect, trajectory
from tests.landed import CHECKPOINTS, CHECKPOINTS_FORMAT_3, CONTINUED, checkpoint_of, config_of
from tests.landed.problems import PROBLEMS

pytestmark = pytest.mark.cpu  # the numbers follow from the draws of a CPU
TOLD: dict[str, dict[str, Any]] = json.loads(CONTINUED.read_text())
FORMATS = pytest.mark.parametrize("folder", [CHECKPOINTS, CHECKPOINTS_FORMAT_3], ids=["format 2", "format 3"])


@FORMATS
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_checkpoint_of_an_earlier_version_goes_on_as_it_would_have_there(name: str, folder: Path):
    config, checkpoint = config_of(TOLD[name]["config"]), checkpoint_of(name, folder).read_bytes()
    found = trajectory(PROBLEMS[name](), config, checkpoint)
    expect(found, TOLD[name]["continued"], close=closeness(name))


@FORMATS
@pytest.mark.parametrize("name", PROBLEMS)
def test_it_goes_on_the_same_once_it_has_been_written_again(name: str, folder: Path):
    config, checkpoint = config_of(TOLD[name]["config"]), checkpoint_of(name, folder).read_bytes()
    again = engine.State.load(checkpoint).save()
    expect(trajectory(PROBLEMS[name](), config, again), TOLD[name]["continued"], close=closeness(name))


def closeness(name: str) -> float:
    """The tolerance for another processor: KFAC takes the root of an eigenvalue that is zero up to rounding."""
    return 1e-3 if "float32" in name else 1e-6 if "kfac" in name else 1e-9


def test_each_checkpoint_is_among_them():
    assert list(TOLD) == list(PROBLEMS)
