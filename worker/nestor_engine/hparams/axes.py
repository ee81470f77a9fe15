"""What the dimensions of parameters and of examples are called."""

from __future__ import annotations

_OF_WEIGHTS = {
    0: (),
    1: ("unit",),
    2: ("row", "column"),
    3: ("filter", "channel", "position"),
    4: ("filter", "channel", "row", "column"),
    5: ("filter", "channel", "depth", "row", "column"),
}
_OF_ONE_EXAMPLE = {
    0: (),
    1: ("feature",),
    2: ("row", "column"),
    3: ("channel", "row", "column"),
    4: ("channel", "depth", "row", "column"),
}


def axes_of_weights(ndim: int) -> tuple[str, ...] | None:
    """Of a parameter with `ndim` dimensions: those of linear layers and convolutions have usual names."""
    return _OF_WEIGHTS.get(ndim)


def axes_of_examples(ndim: int) -> tuple[str, ...]:
    """Of a column with `ndim` dimensions, of which the first counts examples: features, pictures, or volumes."""
    rest = _OF_ONE_EXAMPLE.get(ndim - 1) or tuple(f"dimension {dim}:" for dim in range(1, ndim))
    return ("example", *rest)
