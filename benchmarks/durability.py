"""What it costs to survive: `python -m benchmarks.durability [--json FILE]` breaks each part of Nestor, with a clock.

It measures what checkpoints cost, how soon a first step comes on a worker that has just begun or that waits, how soon a
trial goes on after each fault, and how long a worker takes to leave. `--soak N` instead has N trials endure faults of
any kind at any moment, and holds each against its undisturbed trajectory, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from nestor.schemas import Preset
from nestor_engine import Config, optimise
from nestor_worker.options import Options
from nestor_worker.runner import presets
from nestor_worker.runner.recorder import BackgroundCheckpointer, Trajectory
from nestor_worker.workdir import Spec
from tests.end_to_end import faults
from tests.end_to_end.api import ENDLESS, PRESET, Api
from tests.end_to_end.expected import endure, undisturbed
from tests.end_to_end.house import House
from tests.support.server import wait_for
from tests.support.worker import running_worker

WIDTHS = (128, 1024, 4096)  # of the hidden layer of the models whose checkpoints are timed
OVERHEAD_SECONDS = 30.0  # of training, for each
RECOVERIES = (
    faults.kill_the_runner,
    faults.kill_the_supervisor,
    faults.kill_the_whole_worker,
    faults.kill_the_server,
    faults.kill_postgres,
    faults.kill_valkey,
    faults.send_the_database_away,
    faults.stall_the_worker_past_its_lease,
)


class Metered(BackgroundCheckpointer):
    """Tells the processor time of its jobs."""

    spent, jobs = 0.0, 0

    def _run(self, job: Callable[[], None]) -> None:
        super()._run(job)
        self.spent += time.thread_time()
        self.jobs += 1


def overheads() -> dict[str, dict[str, float]]:
    """Of models of several sizes: what checkpoints take of the processor time of a training, in percent."""
    found = {}
    for width in WIDTHS:
        preset = Preset.model_validate(PRESET | {"model": {"kind": "mlp", "hidden": [width]}})
        problem, config = presets.build(preset, seed=0), Config(n_steps=ENDLESS)
        seconds = Options().checkpoint_seconds
        with tempfile.TemporaryDirectory() as directory:
            spec = Spec({}, None, None, None, None, threads=1, checkpoint_seconds=seconds)
            trajectory = Trajectory(Path(directory), spec, config, lambda said: None, problem.bilevel())
            trajectory._checkpointer = metered = Metered(seconds)
            trajectory.begin(None, "cpu")
            until, began = time.monotonic() + OVERHEAD_SECONDS, time.process_time()
            for step in optimise(problem.bilevel(), problem.data, config):
                trajectory.take(step)
                if time.monotonic() > until:
                    break
            metered.finish()
            percent = 100 * metered.spent / (time.process_time() - began)
            size = max(path.stat().st_size for path in Path(directory).glob("checkpoint-*"))
        found[f"{width} hidden units"] = {"bytes": size, "checkpoints": metered.jobs, "percent": percent}
    return found


def first_steps(house: House, api: Api) -> dict[str, float]:
    """From the submission to the first recorded step, on a worker without and with a runner in waiting."""
    house.worker.stop()
    times = {}
    for name, standby in (("cold", "false"), ("warm", "true")):
        with running_worker(house.server, NESTOR_STANDBY=standby) as worker:
            if standby == "true":
                wait_for(worker.waiting, "a runner in waiting", seconds=60)
                time.sleep(10)  # it goes through a trial of its own before it has loaded all
            began, trial_id = time.monotonic(), api.submit(ENDLESS)
            until_step(api, trial_id, past=0)
            times[name] = time.monotonic() - began
            end(api, trial_id)
    house.worker = house.new_worker()
    return times


def recoveries(house: House, api: Api) -> dict[str, float]:
    """From the beginning of each fault until the trial is further than it had been."""
    times = {}
    for fault in RECOVERIES:
        trial_id = api.submit(ENDLESS)
        before, began = api.until_a_new_checkpoint(trial_id), time.monotonic()
        fault(house, api, trial_id)
        reached = before["step"]
        if not faults.FAULTS[fault]:
            api.until_another_attempt(trial_id, before["attempt"])
            reached = api.trial(trial_id)["step"]  # the claim took it back to the checkpoint; what follows is new
        until_step(api, trial_id, past=reached)
        times[fault.__name__] = time.monotonic() - began
        end(api, trial_id)
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


def backup(house: House) -> float:
    """Dump the database, copy the objects, restore both, and have a server ready on them."""
    began = time.monotonic()
    with house.restored_from_a_backup():
        return time.monotonic() - began


def until_step(api: Api, trial_id: str, *, past: int) -> None:
    wait_for(lambda: api.trial(trial_id)["step"] > past, f"a step past {past}", seconds=120)


def end(api: Api, trial_id: str) -> None:
    api.ask(trial_id, "cancel")
    api.until(trial_id, "cancelled")


def soak(house: House, api: Api, rounds: int) -> dict[str, object]:
    """Faults of any kind at any moment, a trial for each seed; the first that is not as it must be ends it."""
    steps, attempts, began = undisturbed(), 0, time.monotonic()
    for seed in range(rounds):
        trial = endure(house, api, steps, random.Random(seed), n_faults=5)
        attempts += trial["attempt"]
        print(f"seed {seed}: {trial['attempt']} attempts, bit for bit", flush=True)
    house.expect_nothing_left()
    return {"trials": rounds, "faults": 5 * rounds, "attempts": attempts, "seconds": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the result to this file, too")
    parser.add_argument("--soak", type=int, metavar="N", help="N trials under five random faults each, instead")
    given = parser.parse_args()
    result: dict[str, object] = {"load": os.getloadavg()[0]}
    if not given.soak:
        result["checkpoints, % of processor time"] = overheads()
    with ExitStack() as stack:
        house = House(stack)
        with house.server.http(house.server.new_token()) as http:
            api = Api(http, house.server)
            if given.soak:
                result["soak"] = soak(house, api, given.soak)
            else:
                result["submission to first step, s"] = first_steps(house, api)
                result["recovery, s"] = recoveries(house, api)
                result["backup and restore, s"] = backup(house)
                result["drain, s"] = leaving(house, api)
    text = json.dumps(result, indent=2)
    if given.json:
        given.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
