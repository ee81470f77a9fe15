"""Random draws as functions of a seed and of their purpose, so that no generator state is stored."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from nestor.data.draws import derive_seed as derive_seed
from nestor_engine.tensors.generators import generators


@contextmanager
def randomness(seed: int, device: torch.device) -> Generator[None]:
    """Seed the thread's generators, and restore their states at the end."""
    with restored(device) as reseed:
        reseed(seed)
        yield


@contextmanager
def restored(device: torch.device) -> Generator[Callable[[int], None]]:
    """Restore the states of the thread's generators at the end; yields a function that seeds them at little cost."""
    with _restored(device) as seeded:

        def reseed(seed: int) -> None:
            # Not torch.manual_seed: each call keeps a traceback for every backend that is not initialized.
            for generator in seeded:
                generator.manual_seed(seed)

        yield reseed


def upcoming(device: torch.device) -> list[Tensor]:
    """The states of the thread's generators, which determine the next draws; see `repeated`."""
    return [generator.get_state() for generator in generators(device)]


@contextmanager
def repeated(states: list[Tensor], device: torch.device) -> Generator[None]:
    """Repeat the draws after `upcoming` returned `states`, and restore the generators at the end."""
    with _restored(device) as seeded:
        for generator, state in zip(seeded, states, strict=True):
            generator.set_state(state)
        yield


@contextmanager
def _restored(device: torch.device) -> Generator[list[torch.Generator]]:
    before = upcoming(device)
    seeded = generators(device)
    try:
        yield seeded
    finally:
        for generator, state in zip(seeded, before, strict=True):
            generator.set_state(state)
