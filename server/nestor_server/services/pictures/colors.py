"""From numbers to the 256 levels of an image, and the colors of heat maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestor.errors import RangeEmpty

CLIPPED = (1.0, 99.0)  # percentiles of the darkest and the brightest color, unless a range is given
WHOLE = (0.0, 100.0)
# A polynomial of degree six that is close to the map viridis of Matplotlib: even steps look even, also in gray.
_VIRIDIS = (
    (0.2777, 0.1051, -0.3309, -4.6342, 6.2283, 4.7764, -5.4355),
    (0.0054, 1.4046, 0.2148, -5.7991, 14.1799, -13.7451, 4.6459),
    (0.3341, 1.3846, 0.0951, -19.3324, 56.6906, -65.3530, 26.3124),
)


def viridis() -> bytes:
    """Red, green and blue of each of the 256 levels: dark violet for the lowest, yellow for the highest."""
    at = np.linspace(0, 1, 256)
    channels = [np.polynomial.polynomial.polyval(at, coefficients) for coefficients in _VIRIDIS]
    return (np.stack(channels, axis=1).clip(0, 1) * 255).round().astype(np.uint8).tobytes()


def levels(
    numbers: NDArray[Any], low: float | None, high: float | None, percentiles: tuple[float, float] = CLIPPED
) -> NDArray[np.uint8]:
    """Each number as a level from 0 to 255. Numbers outside of the range are at its ends; NaN is at the lower end.

    Args:
        low, high: the numbers of the levels 0 and 255; by default these `percentiles` of all finite numbers.

    Raises:
        RangeEmpty: `low` is not below `high`.
    """
    finite = numbers[np.isfinite(numbers)]
    least, largest = np.percentile(finite, percentiles) if finite.size else (0.0, 0.0)
    begin, end = float(least) if low is None else low, float(largest) if high is None else high
    if low is not None and high is not None and low >= high:
        raise RangeEmpty(low=low, high=high)
    if begin == end:  # all are equal
        return np.full(numbers.shape, 128, np.uint8)
    if begin > end:  # all lie on one side of the bound that was given
        return np.full(numbers.shape, 0 if high is None else 255, np.uint8)
    scaled = (np.nan_to_num(numbers, nan=begin).astype(np.float64).clip(begin, end) - begin) * (255 / (end - begin))
    return scaled.round().astype(np.uint8)
