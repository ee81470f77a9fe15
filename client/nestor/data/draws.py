"""Random draws as functions of a seed, without torch: a server has none."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def derive_seed(seed: int, *words: str | int) -> int:
    """A seed of 63 bits for one purpose; streams of different words are independent."""
    digest = hashlib.blake2b(repr((seed, *words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def permutation(n: int, seed: int) -> NDArray[Any]:
    """What `torch.randperm(n, generator=torch.Generator().manual_seed(seed))` returns."""
    import numpy as np

    # The same generator with the same seed, whose numbers NumPy never changes; and then torch's own shuffling.
    numbers = np.random.RandomState(seed % 2**32).randint(0, 2**32, size=n, dtype=np.uint32).tolist()
    order = list(range(n))
    for i in range(n - 1):
        other = i + numbers[i] % (n - i)
        order[i], order[other] = order[other], order[i]
    return np.array(order)
