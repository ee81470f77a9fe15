"""Plain training with fixed hyperparameters: the baselines, and final training with tuned values."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

import nestor
from examples.paper.networks import DEVICE

Tensors = dict[str, Tensor]
Metrics = dict[str, dict[str, float]]  # split → validation loss (as `loss`) and metrics
HELD_OUT = ("val", "test")


def trained(
    problem: nestor.Problem,
    inner: nestor.Adam | nestor.SGD,
    n_steps: int,
    *,
    batch_size: int = 128,
    hparams: Tensors | None = None,
    seed: int = 0,
    splits: Sequence[str] = HELD_OUT,
) -> Metrics:
    """Metrics of the model after training from its initial weights.

    It runs in this process, on its GPU if it has one, and costs `n_steps` training gradients.

    Args:
        n_steps: inner steps.
        batch_size: training examples in a batch.
        hparams: as optimized; the problem's initial ones by default.
    """
    bilevel, data = problem.bilevel().to(DEVICE), problem.data.to(DEVICE)
    fixed = {name: value.to(DEVICE) for name, value in (hparams or bilevel.hparams).items()}
    fitted = nestor.fit(
        bilevel, data.train, n_steps=n_steps, inner=inner, batch_size=batch_size, hparams=fixed, seed=seed
    )
    return {
        split: nestor.evaluate(bilevel, fitted.params, fitted.buffers, fixed, data.splits[split]) for split in splits
    }


def tuned(trial: nestor.Trial) -> Tensors:
    """The last hyperparameters of a trial, before their transforms; with held-out examples, the best by their loss.

    The best step by the validation loss would be no fair choice: the hyperparameters are fitted to these examples.
    """
    found = trial.best_hparams if trial.spec.early_stopping else trial.hparams
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def evaluated(problem: nestor.Problem, splits: Sequence[str] = HELD_OUT) -> Metrics:
    """Metrics of the model with its current weights."""
    bilevel = problem.bilevel()
    return {
        split: nestor.evaluate(bilevel, bilevel.params, bilevel.buffers, bilevel.hparams, problem.data.splits[split])
        for split in splits
    }
