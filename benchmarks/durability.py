"""What it costs to survive: `python -m benchmarks.durability` breaks each part of a real Nestor once, with a clock.

Prints one JSON document, times in seconds: what checkpoints cost, how soon a first step comes on a worker that has just
begun or that waits, how soon a trial goes on after each fault, and how long a worker takes to leave.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, suppress

from nestor.schemas import Preset
from nestor_engine import Config, optimise
from nestor_worker import presets
from tests.end_to_end.api import ENDLESS, PRESET, Api
from tests.end_to_end.house import FAULTS, House
from tests.support.server import wait_for
from tests.support.worker import running_worker

STATE_WIDTHS = (128, 1024, 4096)  # of the hidden layer whose checkpoints are timed


def checkpoint_costs() -> dict[str, dict[str, float]]:
    """Of models of several sizes: bytes, the processor time of a checkpoint, and the interval that it brings about."""
    costs = {}
    for width in STATE_WIDTHS:
        preset = Preset.model_validate(PRESET | {"model": {"kind": "mlp", "hidden": [width]}})
        problem = presets.build(preset, seed=0)
        step = next(optimise(problem.bilevel(), problem.data, Config(n_steps=1)))
        began = time.thread_time()
        size = len(step.state.save())
        spent = time.thread_time() - began
        costs[f"{width} hidden units"] = {"bytes": size, "seconds": spent, "interval": max(5.0, spent / 0.02)}
    return costs


def first_steps(house: House, api: Api) -> dict[str, float]:
    """From the submission to the first recorded step, on a worker without and with a runner in waiting."""
    house.worker.stop()
    times = {}
    for name, standby in (("cold", "false"), ("warm", "true")):
        with running_worker(house.server, NESTOR_STANDBY=standby) as worker:
            if standby == "true":
                wait_for(worker.waiting, "a runner in waiting", seconds=60)
                time.sleep(10)  # it goes through a trial of its own before it has loaded all
            trial_id = api.submit(ENDLESS)
            times[name] = until_step(api, trial_id, past=0)
            api.ask(trial_id, "cancel")
            api.until(trial_id, "cancelled")
    house.worker = house.new_worker()
    return times


def recoveries(house: House, api: Api) -> dict[str, float]:
    """From the beginning of each fault until the trial is further than it had been."""
    times = {}
    for fault, same_attempt in FAULTS.items():
        trial_id = api.submit(ENDLESS)
        api.until_checkpoint(trial_id)
        before, began = api.trial(trial_id), time.monotonic()
        fault(house, api, trial_id)
        reached = before["step"]
        if not same_attempt:
            until_attempt(api, trial_id, past=before["attempt"])
            reached = api.trial(trial_id)["step"]  # the claim took it back to the checkpoint; what follows is new
        until_step(api, trial_id, past=reached)
        times[fault.__name__] = time.monotonic() - began
        api.ask(trial_id, "cancel")
        api.until(trial_id, "cancelled")
    return times


def leaving(house: House, api: Api) -> float:
    """From SIGTERM to the exit of a worker with a running trial."""
    trial_id = api.submit(ENDLESS)
    until_step(api, trial_id, past=5)
    began = time.monotonic()
    house.worker.stop()
    took = time.monotonic() - began
    api.ask(trial_id, "cancel")
    return took


def until_step(api: Api, trial_id: str, *, past: int) -> float:
    began = time.monotonic()
    wait_for(lambda: api.trial(trial_id)["step"] > past, f"a step past {past}", seconds=120)
    return time.monotonic() - began


def until_attempt(api: Api, trial_id: str, *, past: int) -> None:
    wait_for(lambda: api.trial(trial_id)["attempt"] > past, "another attempt", seconds=120)


def main() -> None:
    result: dict[str, object] = {"load": os.getloadavg()[0], "checkpoints": checkpoint_costs()}
    with ExitStack() as stack:
        house = House(stack)
        with house.server.http(house.server.new_token()) as http:
            api = Api(http, house.server)
            result["submission to first step"] = first_steps(house, api)
            result["recovery"] = recoveries(house, api)
            result["drain"] = leaving(house, api)
    with suppress(BrokenPipeError):
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
