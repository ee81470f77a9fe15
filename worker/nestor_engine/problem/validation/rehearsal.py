"""Take one outer step of the planned trial on a few examples, so that what would end the trial is found before it."""

from __future__ import annotations

import torch

from nestor import options
from nestor_engine.config import Config
from nestor_engine.data.splits import INDEX, Data
from nestor_engine.objective import Batch, Bilevel
from nestor_engine.training.outer_loop import optimize


def rehearse(bilevel: Bilevel, train: Batch, val: Batch, config: options.Config) -> None:
    """Take an inner step, a hypergradient with its curvature products, and an outer step.

    Args:
        train, val: all examples of the step; one that is there twice counts once.
        config: of the trial. Its optimizers, response, curvature and solver are used as they are; batches are `train`
            and `val`, and there are no more inner steps than the response goes back over.

    Raises:
        Diverged: a number is not finite.
        Exception: whatever the problem's functions, or their derivatives, raise.
    """
    config, train, val = Config.of(config), _distinct(train), _distinct(val)
    step = config.model_copy(
        update={
            "n_steps": 1,
            "inner_steps": max(1, config.response.unrolls),
            "warmup_steps": 0,
            "batch_size": min(config.batch_size, len(train[INDEX])),
            "val_batch_size": min(config.val_batch_size, len(val[INDEX])),
            "folds": None,
            "early_stopping": None,
            "trace": False,
        }
    )
    data = Data(*({name: values for name, values in batch.items() if name != INDEX} for batch in (train, val)))
    with torch.enable_grad():
        for _ in optimize(bilevel, data, step):
            pass


def _distinct(batch: Batch) -> Batch:
    """Each example once, so that their positions in a split of their own have entries of hyperparameters."""
    first: dict[int, int] = {}
    for row, number in enumerate(batch[INDEX]):
        first.setdefault(int(number), row)
    rows = torch.tensor([*first.values()], device=batch[INDEX].device)
    return {name: values[rows] for name, values in batch.items()}
