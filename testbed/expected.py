"""The expected result of a trial under faults: the engine's uninterrupted trajectory, bit for bit."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import torch

from nestor import Client
from nestor.schemas import Preset, TrialCreate
from nestor_engine import Config, Problem, State, Step, optimize, start_from
from nestor_worker.runner import presets
from testbed import faults
from testbed.api import PRESET, Api, spec_of, without_clock
from testbed.audit_trigger import expect_consistent_journal, replayed
from testbed.cluster import TestCluster
from testbed.faults import FAULTS
from testbed.server import wait_for
from testbed.worker import Worker

LONG = 400  # steps, with checkpoints in between


def uninterrupted_steps(n_steps: int = LONG) -> list[Step]:
    """The trajectory of `spec_of(n_steps)`, by the engine alone."""
    config, problem = setting(n_steps)
    with one_thread():
        return list(optimize(problem.bilevel(), problem.data, config))


def warm_started_steps(state: State, n_steps: int) -> list[Step]:
    """The trajectory of a trial that started warm from `state`."""
    config, problem = setting(n_steps)
    with one_thread():
        return list(optimize(start_from(problem.bilevel(), State.load(state.save())), problem.data, config))


def setting(n_steps: int) -> tuple[Config, Problem]:
    spec = TrialCreate.model_validate(spec_of(n_steps)).model_dump(mode="json", include=set(Config.model_fields))
    return Config(**spec), presets.build(Preset.model_validate(PRESET), seed=0)


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Reader:
    """Follows a trial's events from the beginning, across server restarts."""

    def __init__(self, api: Api, trial_id: str) -> None:
        self._seen: list[tuple[str, int | None]] = []
        self._seqs: list[int] = []
        self._thread = threading.Thread(target=self._read, args=(api, trial_id), daemon=True)
        self._thread.start()

    def _read(self, api: Api, trial_id: str) -> None:
        with Client(api.server.url, api.token) as client:
            for event in client.events(UUID(trial_id)):
                self._seqs.append(event.seq)
                self._seen.append((event.type.value, event.data.get("number", event.data.get("step"))))

    def expect_steps(self, n_steps: int) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the stream did not end"
        assert self._seqs[:-1] == sorted(set(self._seqs[:-1]))
        assert replayed(self._seen) == list(range(1, n_steps + 1))


def expect_trajectory(api: Api, worker: Worker, trial_id: str, steps: list[Step]) -> dict[str, Any]:
    """Assert that the trial completed with exactly `steps` and left nothing behind; return its record."""
    trial = api.until(trial_id, "complete", "failed")
    assert trial["error"] is None
    api.expect_whole(trial_id, len(steps))
    expect_steps(api, trial_id, steps)
    assert api.last_checkpoint(trial_id) == steps[-1].state.save()
    expect_consistent_journal(api.server, trial_id, len(steps))
    assert len(api.checkpoints(trial_id)) <= 2
    assert api.unused_blobs() == 0
    wait_for(lambda: worker.runners() == [], "the runner to be gone")
    return trial


def expect_steps(api: Api, trial_id: str, steps: Iterable[Step]) -> None:
    """Assert that exactly `steps` were recorded; a user's stop or pause may have evaluated more of them."""
    unevaluated: dict[str, Any] = {"value": None, "metrics": {}}
    recorded, expected = api.steps(trial_id), [plain(step) for step in steps]
    assert len(recorded) == len(expected)
    for found, planned in zip(recorded, expected, strict=True):
        assert (found | unevaluated if planned["value"] is None else found) == planned


def plain(step: Step) -> dict[str, Any]:
    return without_clock(step.record() | {"warnings": list(step.warnings)})


def inject_faults(
    cluster: TestCluster, api: Api, uninterrupted: list[Step], dice: random.Random, *, n_faults: int
) -> dict[str, Any]:
    """Inject random faults at random moments: while the trial is queued, starting, training or recovering."""
    trial_id = api.submit(LONG)
    reader = Reader(api, trial_id)
    with faults.slow_runners(cluster):
        for fault in dice.choices(list(FAULTS), k=n_faults):
            api.until(trial_id, "running", "complete")
            time.sleep(dice.uniform(0, 1))
            if api.trial(trial_id)["state"] == "running":
                fault(cluster, api, trial_id)
    trial = expect_trajectory(api, cluster.worker, trial_id, uninterrupted)
    reader.expect_steps(LONG)
    return trial
