"""The experiments of the slides, each in its own file. `python -m examples.paper` lists them."""

from __future__ import annotations

EXPERIMENTS = (
    *("overfit", "inverse", "hessian", "distill"),
    *("augment", "clean", "games", "language", "partition", "search"),
)
