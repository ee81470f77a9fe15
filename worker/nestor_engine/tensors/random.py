"""Random draws as functions of a seed and of what they are for: nothing to carry from one process to the next."""

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
    """Draw from torch's generators as if seeded here, and leave them as they were."""
    with restored(device) as reseed:
        reseed(seed)
        yield


@contextmanager
def restored(device: torch.device) -> Generator[Callable[[int], None]]:
    """Leave torch's generators as they were; what is given seeds them, as often as one likes at little cost."""
    with _restored(device) as generators:

        def reseed(seed: int) -> None:
            # Not torch.manual_seed: it keeps a traceback for every backend that has not started, at every call.
            for generator in generators:
                generator.manual_seed(seed)

        yield reseed


def upcoming(device: torch.device) -> list[Tensor]:
    """The states of torch's generators, which say what is drawn next."""
    return [generator.get_state() for generator in _generators(device)]


@contextmanager
def repeated(states: list[Tensor], device: torch.device) -> Generator[None]:
    """Draw what was `upcoming` once more, and leave the generators as they were."""
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
