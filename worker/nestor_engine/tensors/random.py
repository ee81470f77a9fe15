"""Random draws as functions of a seed and of their purpose, so that no generator state is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor


def derive_seed(seed: int, *words: str | int) -> int:
    """A seed of 63 bits for one purpose; streams of different words are independent."""
    digest = hashlib.blake2b(repr((seed, *words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def randomness(seed: int, device: torch.device) -> Generator[None]:
    """Seed torch's generators, and restore their states at the end."""
    with restored(device) as reseed:
        reseed(seed)
        yield


@contextmanager
def restored(device: torch.device) -> Generator[Callable[[int], None]]:
    """Restore the states of torch's generators at the end; yields a function that seeds them at little cost."""
    with _restored(device) as generators:

        def reseed(seed: int) -> None:
            # Not torch.manual_seed: each call keeps a traceback for every backend that is not initialized.
            for generator in generators:
                generator.manual_seed(seed)

        yield reseed


def upcoming(device: torch.device) -> list[Tensor]:
    """The states of torch's generators, which determine the next draws; see `repeated`."""
    return [generator.get_state() for generator in _generators(device)]


@contextmanager
def repeated(states: list[Tensor], device: torch.device) -> Generator[None]:
    """Repeat the draws after `upcoming` returned `states`, and restore the generators at the end."""
    with _restored(device) as generators:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        yield


@contextmanager
def _restored(device: torch.device) -> Generator[list[torch.Generator]]:
    before = upcoming(device)
    generators = _generators(device)
    try:
        yield generators
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def _generators(device: torch.device) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = cast("int | None", device.index)  # which its annotation leaves out
        index = torch.cuda.current_device() if index is None else index
        generators.append(torch.cuda.default_generators[index])
    return generators
