"""Two real processes compute one trajectory: that of one process up to rounding, and the same bits in both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nestor_engine as engine
from nestor.errors import ConfigInvalid
from nestor_engine.distributed import Group
from tests.engine.ranks import N_STEPS, OF_SUMS, RESPONSES, problem, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The directory where two ranks have left their states."""
    directory = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.engine.ranks", str(directory), str(rank), "2"],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=300)
        assert rank.returncode == 0, errors.decode()
    return directory


@pytest.mark.parametrize("name", RESPONSES)
def test_two_processes_compute_the_trajectory_of_one(together: Path, name: str):
    alone = run(RESPONSES[name])
    reached = alone[-1].state.to("cpu")
    states = [(together / f"{name}-{rank}").read_bytes() for rank in range(2)]
    assert states[0] == states[1]
    state = engine.State.load(states[0])
    torch.testing.assert_close(state.weights, reached.weights, rtol=1e-7, atol=1e-8)
    # Weights of examples are float32; Adam makes steps of full length of their small hypergradients.
    torch.testing.assert_close(state.hparams, reached.hparams, rtol=1e-5, atol=1e-7)
    compare(together, name, alone)


def test_two_processes_steer_by_a_loss_of_sums_and_weights_as_one_does(together: Path):
    compare(together, OF_SUMS, run(engine.Implicit(), of_sums=True))


def compare(together: Path, name: str, alone: list[engine.Step]) -> None:
    """The numbers that each process recorded, with those of one process."""
    first, second = (json.loads((together / f"records-{rank}.json").read_text())[name] for rank in range(2))
    assert [numbers(step) for step in first] == [numbers(step) for step in second]
    for ours, theirs in zip(first, [step.record() for step in alone], strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-5, abs=1e-7)


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a step, with metrics and without warnings."""
    flat = {**record, **{f"{split} {k}": v for split in ("val", "test") for k, v in record[f"{split}_metrics"].items()}}
    return {name: value for name, value in flat.items() if isinstance(value, int | float)}


def test_with_batch_norm_and_dropout_all_processes_agree_and_resume_bit_for_bit(together: Path):
    whole, *others = ((together / f"{how}-{rank}").read_bytes() for how in ("whole", "resumed") for rank in range(2))
    assert others == [whole] * 3
    state = engine.State.load(whole)
    assert state.step == N_STEPS
    assert not torch.equal(state.buffers["1.running_mean"], torch.zeros(8, dtype=torch.float64, device="cpu"))


@pytest.mark.parametrize("n", [5, 8, 9, 1000])
def test_parts_are_disjoint_cover_the_batch_and_are_of_one_size_or_two(n: int):
    parts = [range(n)[Group(rank, 5).share(n).part] for rank in range(5)]
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_method_that_cannot_be_distributed_is_refused_with_an_error_message():
    two = Group(0, 2)
    with pytest.raises(ConfigInvalid, match="1 examples cannot be divided among 2 devices"):
        two.share(1)
    posed = problem()
    for response in (
        engine.Implicit(engine.KFAC(), engine.Direct()),
        engine.Implicit(engine.GaussNewton(), engine.WarmStarted(engine.PreconditionedCG(2, engine.KFAC()))),
    ):
        config = engine.Config(n_steps=1, response=response)
        with pytest.raises(ConfigInvalid, match="which 2 devices divide among them"):
            next(engine.optimize(posed.bilevel(), posed.data, config, group=two))
