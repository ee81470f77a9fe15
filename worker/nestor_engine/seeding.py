"""Random draws as functions of a seed and of what they are for: nothing to carry from one process to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *words: str | int) -> int:
    """A seed of 63 bits for one purpose; streams of different words are independent."""
    digest = hashlib.blake2b(repr((seed, *words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from torch's generators as if seeded here, and leave them as they were."""
    # Not torch.manual_seed: it keeps a traceback for every backend that has not started, at every call.
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(
            torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
        )
    before = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
