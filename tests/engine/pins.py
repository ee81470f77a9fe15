"""Record a trajectory to the bit, and compare it with a recorded one."""

from __future__ import annotations

import os
from typing import Protocol

import pytest
import torch

import nestor_engine as engine
from nestor.options import Config

BITWISE = os.environ.get("NESTOR_PINNED_BITWISE") == "1"  # on the processor that wrote them; others round differently
Trajectory = dict[str, list[str]]  # what is pinned of it → its numbers, in hexadecimal


class Posed(Protocol):
    """A problem, as written or as exported."""

    data: engine.Data

    def bilevel(self) -> engine.Bilevel: ...


def trajectory(problem: Posed, config: Config, checkpoint: bytes | None = None) -> Trajectory:
    """From the beginning, or from a checkpoint."""
    return _written(_steps(problem, config, checkpoint))


def interrupted(problem: Posed, config: Config, step: int) -> bytes:
    """The checkpoint after a step."""
    return _steps(problem, config, None)[step - 1].state.save()


def _steps(problem: Posed, config: Config, checkpoint: bytes | None) -> list[engine.Step]:
    state = None if checkpoint is None else engine.State.load(checkpoint)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # batch norm adds up in as many parts as there are threads
    try:
        return list(engine.optimize(problem.bilevel(), problem.data, config, state))
    finally:
        torch.set_num_threads(threads)


def _written(steps: list[engine.Step]) -> Trajectory:
    last = steps[-1]
    numbers = {
        "val_loss": [step.val_loss for step in steps],
        "hypergradient_norm": [step.hypergradient_norm for step in steps],
        **{name: value.flatten().tolist() for name, value in sorted(last.state.hparams.items())},
    }
    if last.held_out_loss is not None:
        numbers["held_out_loss"] = [step.held_out_loss for step in steps]
    if last.test_loss is not None:
        numbers["test_loss"] = [last.test_loss]
    return {name: [float.hex(x) for x in row] for name, row in numbers.items()}


def expect(found: Trajectory, pinned: Trajectory, *, close: float) -> None:
    """The same trajectory, to a relative error; with NESTOR_PINNED_BITWISE=1 to the bit."""
    assert found.keys() == pinned.keys()
    if BITWISE:
        assert found == pinned
    for name, row in pinned.items():
        numbers = [float.fromhex(x) for x in found[name]]
        assert numbers == pytest.approx([float.fromhex(x) for x in row], rel=close, abs=1e-15), name
