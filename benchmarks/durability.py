"""Measure the cost of durability: `python -m benchmarks.durability [--json FILE]` injects each fault once.

It measures the cost of checkpoints, the time from submission to the first step on a cold and a standby runner, the
recovery time after each fault, and the time that a worker takes to shut down. `--soak N` instead injects random faults
into N trials, and compares each trajectory with the uninterrupted one, bit for bit.
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

from examples.provenance import caption
from nestor.schemas import Preset
from nestor_engine import Config, optimize
from nestor_worker.options import Options
from nestor_worker.runner import presets
from nestor_worker.runner.recorder import BackgroundCheckpointer, TrialRecorder
from nestor_worker.workdir import WorkSpec
from testbed import faults
from testbed.api import ENDLESS, PRESET, Api
from testbed.cluster import TestCluster
from testbed.expected import inject_faults, uninterrupted_steps
from testbed.server import wait_for
from testbed.worker import running_worker

WIDTHS = (128, 1024, 4096)  # of the hidden layer of the models whose checkpoints are timed
OVERHEAD_SECONDS = 30.0  # of training, for each
RECOVERIES = (
    faults.kill_the_runner,
    faults.kill_the_supervisor,
    faults.kill_the_whole_worker,
    faults.kill_the_server,
    faults.kill_postgres,
    faults.kill_valkey,
    faults.disconnect_the_database,
    faults.stall_the_worker_past_its_lease,
)


class Metered(BackgroundCheckpointer):
    """Sums the processor time of its jobs."""

    spent, jobs = 0.0, 0

    def _run(self, job: Callable[[], None]) -> None:
        super()._run(job)
        self.spent += time.thread_time()
        self.jobs += 1


def overheads() -> dict[str, dict[str, float]]:
    """The share of training's processor time that checkpoints take, in percent, for models of several sizes."""
    found = {}
    for width in WIDTHS:
        preset = Preset.model_validate(PRESET | {"model": {"kind": "mlp", "hidden": [width]}})
        problem, config = presets.build(preset, seed=0), Config(n_steps=ENDLESS)
        seconds = Options().checkpoint_seconds
        with tempfile.TemporaryDirectory() as directory:
            spec = WorkSpec({}, None, None, None, None, threads=1, checkpoint_seconds=seconds)
            trajectory = TrialRecorder(Path(directory), spec, config, lambda line: None, problem.bilevel())
            trajectory._checkpointer = metered = Metered(seconds)
            trajectory.begin(None, "cpu")
            until, began = time.monotonic() + OVERHEAD_SECONDS, time.process_time()
            for step in optimize(problem.bilevel(), problem.data, config):
                trajectory.record(step)
                if time.monotonic() > until:
                    break
            metered.finish()
            percent = 100 * metered.spent / (time.process_time() - began)
            size = max(path.stat().st_size for path in Path(directory).glob("checkpoint-*"))
        found[f"{width} hidden units"] = {"bytes": size, "checkpoints": metered.jobs, "percent": percent}
    return found


def first_steps(cluster: TestCluster, api: Api) -> dict[str, float]:
    """Seconds from submission to the first recorded step, on a worker without and with a standby runner."""
    cluster.worker.stop()
    times = {}
    for name, standby in (("cold", "false"), ("warm", "true")):
        with running_worker(cluster.server, NESTOR_STANDBY=standby) as worker:
            if standby == "true":
                wait_for(worker.waiting, "a standby runner", seconds=60)
                time.sleep(10)  # a standby runner trains a trial of its own to load everything
            began, trial_id = time.monotonic(), api.submit(ENDLESS)
            until_step(api, trial_id, past=0)
            times[name] = time.monotonic() - began
            end(api, trial_id)
    cluster.worker = cluster.new_worker()
    return times


def recoveries(cluster: TestCluster, api: Api) -> dict[str, float]:
    """Seconds from each fault until the trial has passed the step that it had reached before."""
    times = {}
    for fault in RECOVERIES:
        trial_id = api.submit(ENDLESS)
        before, began = api.until_a_new_checkpoint(trial_id), time.monotonic()
        fault(cluster, api, trial_id)
        reached = before["step"]
        if not faults.FAULTS[fault]:
            api.until_another_attempt(trial_id, before["attempt"])
            reached = api.trial(trial_id)["step"]  # the new attempt began at the checkpoint
        until_step(api, trial_id, past=reached)
        times[fault.__name__] = time.monotonic() - began
        end(api, trial_id)
    return times


def drain(cluster: TestCluster, api: Api) -> float:
    """Seconds from SIGTERM to the exit of a worker with a running trial."""
    trial_id = api.submit(ENDLESS)
    until_step(api, trial_id, past=5)
    began = time.monotonic()
    cluster.worker.stop()
    took = time.monotonic() - began
    api.ask(trial_id, "cancel")
    return took


def backup(cluster: TestCluster) -> float:
    """Seconds to dump the database, copy the objects, restore both, and start a server on them."""
    began = time.monotonic()
    with cluster.restored_from_a_backup():
        return time.monotonic() - began


def until_step(api: Api, trial_id: str, *, past: int) -> None:
    wait_for(lambda: api.trial(trial_id)["step"] > past, f"a step past {past}", seconds=120)


def end(api: Api, trial_id: str) -> None:
    api.ask(trial_id, "cancel")
    api.until(trial_id, "cancelled")


def soak(cluster: TestCluster, api: Api, rounds: int) -> dict[str, object]:
    """Inject random faults at random moments into one trial per seed; fail at the first deviation."""
    steps, attempts, began = uninterrupted_steps(), 0, time.monotonic()
    for seed in range(rounds):
        trial = inject_faults(cluster, api, steps, random.Random(seed), n_faults=5)
        attempts += trial["attempt"]
        print(f"seed {seed}: {trial['attempt']} attempts, bit for bit", flush=True)
    cluster.expect_no_leftovers()
    return {"trials": rounds, "faults": 5 * rounds, "attempts": attempts, "seconds": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--soak", type=int, metavar="N", help="instead inject five random faults into each of N trials")
    given = parser.parse_args()
    result: dict[str, object] = {"measured": caption("benchmarks.durability"), "load": os.getloadavg()[0]}
    if not given.soak:
        result["checkpoints, % of processor time"] = overheads()
    with ExitStack() as stack:
        cluster = TestCluster(stack)
        with cluster.server.http(cluster.server.new_token()) as http:
            api = Api(http, cluster.server)
            if given.soak:
                result["soak"] = soak(cluster, api, given.soak)
            else:
                result["submission to first step, s"] = first_steps(cluster, api)
                result["recovery, s"] = recoveries(cluster, api)
                result["backup and restore, s"] = backup(cluster)
                result["drain, s"] = drain(cluster, api)
    text = json.dumps(result, indent=2)
    if given.json:
        given.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
