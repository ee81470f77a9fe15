"""Whatever fails under a trial, its trajectory is bit for bit that of a run that nothing befell.

`pytest tests/end_to_end/test_faults.py --rounds 50` goes on with faults of any kind in any order.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from nestor.schemas import CONFIGURATION, Preset, TrialCreate
from nestor_engine import Step, optimise, restore
from nestor_worker import presets
from tests.end_to_end.api import PRESET, Api, spec_of
from tests.end_to_end.house import FAULTS, Fault, House
from tests.support.server import Server, wait_for

LONG = 150  # steps; a few seconds, with checkpoints in between


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with ExitStack() as stack:
        yield House(stack)


@pytest.fixture(scope="module")
def server(house: House) -> Server:
    return house.server


@pytest.fixture(scope="module")
def uninterrupted() -> list[Step]:
    """The same trajectory, by the engine alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spec = TrialCreate.model_validate(spec_of(LONG)).model_dump(mode="json", include=set(CONFIGURATION))
    config, problem = restore(spec), presets.build(Preset.model_validate(PRESET), seed=0)
    steps = list(optimise(problem.bilevel(), problem.data, config))
    torch.set_num_threads(threads)
    return steps


def expect_nothing_happened(house: House, api: Api, trial_id: str, steps: list[Step]) -> None:
    trial = api.until(trial_id, "complete", "failed")
    assert trial["error"] is None
    api.expect_whole(trial_id, len(steps))
    assert api.steps(trial_id) == [plain(step) for step in steps]
    assert api.last_checkpoint(trial_id) == steps[-1].state.save()
    states = [event["state"] for event in api.events(trial_id, "state")]
    assert states == ["queued", *["running", "queued"] * (trial["attempt"] - 1), "running", "complete"]
    assert len(api.checkpoints(trial_id)) <= 2
    assert api.unused_blobs() == 0
    wait_for(lambda: house.worker.runners() == [], "the runner to be gone")


def plain(step: Step) -> dict[str, Any]:
    record = step.record() | {"warnings": list(step.warnings)}
    return {name: value for name, value in record.items() if name != "seconds"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_trial_goes_on_as_if_nothing_had_happened(house: House, api: Api, uninterrupted, fault: Fault):
    trial_id = api.submit(LONG)
    api.until_checkpoint(trial_id)
    assert api.trial(trial_id)["state"] == "running", "it ended before the fault: make LONG longer"
    fault(house, api, trial_id)
    expect_nothing_happened(house, api, trial_id, uninterrupted)
    assert (api.trial(trial_id)["attempt"] == 1) == FAULTS[fault]


def test_faults_of_any_kind_in_any_order(house: House, api: Api, uninterrupted, round_number: int):
    dice = random.Random(round_number)
    trial_id = api.submit(LONG)
    for fault in dice.sample(list(FAULTS), 3):
        time.sleep(dice.uniform(0, 0.5))
        if api.trial(trial_id)["state"] == "running":
            fault(house, api, trial_id)
        api.until(trial_id, "running", "complete")
    expect_nothing_happened(house, api, trial_id, uninterrupted)
