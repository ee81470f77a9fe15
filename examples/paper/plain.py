"""Plain training with fixed hyperparameters: the baselines, and final training with tuned values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import nestor

Tensors = dict[str, Tensor]
Metrics = dict[str, dict[str, float]]  # split → validation loss (as `loss`) and metrics
HELD_OUT = ("val", "test")


def trained(
    problem: nestor.Problem,
    inner: nestor.Adam | nestor.SGD,
    n_steps: int,
    *,
    hparams: Tensors | None = None,
    seed: int = 0,
    splits: Sequence[str] = HELD_OUT,
) -> Metrics:
    """Metrics of the model after training from its initial weights.

    It runs in this process, on its GPU if it has one, and costs `n_steps` training gradients.

    Args:
        n_steps: inner steps; the optimizer's own `steps` do not matter.
        hparams: as optimized; the problem's initial ones by default.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bilevel, data = problem.bilevel().to(device), problem.data.to(device)
    fixed = {name: value.to(device) for name, value in (hparams or bilevel.hparams).items()}
    fitted = nestor.fit(bilevel, data.train, n_steps=n_steps, inner=inner, hparams=fixed, seed=seed)
    return {
        split: nestor.evaluate(bilevel, fitted.params, fitted.buffers, fixed, data.splits[split]) for split in splits
    }


def tuned(trial: nestor.Trial) -> Tensors:
    """The hyperparameters of a trial, before their transforms."""
    return {name: value for name, value in trial.best_hparams.items() if isinstance(value, Tensor)}


def evaluated(problem: nestor.Problem, splits: Sequence[str] = HELD_OUT) -> Metrics:
    """Metrics of the model with its current weights."""
    bilevel = problem.bilevel()
    return {
        split: nestor.evaluate(bilevel, bilevel.params, bilevel.buffers, bilevel.hparams, problem.data.splits[split])
        for split in splits
    }
