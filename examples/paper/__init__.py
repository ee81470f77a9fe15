"""The experiments of the slides, each in a file of its own. `python -m examples.paper` lists them."""

from __future__ import annotations

EXPERIMENTS = (
    *("overfit", "inverse", "hessian", "distill"),
    *("augment", "clean", "games", "language", "partition", "search"),
)
