"""Positions in the first dimension of a tensor, as parameters name them."""

from __future__ import annotations

import re
from collections.abc import Callable

from nestor.errors import NestorError

_ITEM = re.compile(r"\s*([0-9]{1,18})(?:(:)([0-9]{1,18}))?\s*")


def positions(text: str, n: int, limit: int, unknown: Callable[[str], NestorError]) -> tuple[int, ...]:
    """The positions that `text` names, such as "0:20" or "3,7", in its order; of a range at most one above `limit`.

    Args:
        n: how many there are.
        unknown: the error for a part of the text that names none of them.
    """
    found: list[int] = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        first = int(match[1]) if match else 0
        stop = int(match[3]) if match and match[2] else first + 1
        if match is None or not first < stop or first >= n:
            raise unknown(item)
        found += range(first, min(stop, n, first + limit + 1))
    return tuple(found)
