"""Plain training under fixed hyperparameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nestor import options
from nestor.errors import Diverged, InnerRateMissing, shown
from nestor_engine.implementations import implementation
from nestor_engine.objective import Bilevel, PyTree, Tensors
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.tensors.generators import OwnGenerators
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.inner_loop import InnerLoop
from nestor_engine.training.state import State


@dataclass(frozen=True)
class Fitted:
    """Weights and buffers after plain training."""

    params: PyTree
    buffers: Tensors
    train_loss: float


def fit(
    bilevel: Bilevel,
    train: Tensors,
    *,
    n_steps: int,
    inner: options.Optimizer | None = None,
    batch_size: int = 128,
    hparams: Tensors | None = None,
    seed: int = 0,
) -> Fitted:
    """Train the weights from their initial values under fixed hyperparameters: a baseline, or a final refit.

    Args:
        train: the training columns; they may differ from those of the tuning.
        n_steps: inner steps.
        inner: the optimizer of the weights; `nestor.Adam()` by default.
        batch_size: training examples in a batch.
        hparams: before their transforms; by default the problem's initial values.

    Raises:
        InnerRateMissing: the optimizer has no learning rate of its own.
        Diverged: the training loss is not finite.
    """
    optimizer: Optimizer = implementation(options.Adam() if inner is None else inner)
    if optimizer.lr == "auto":
        raise InnerRateMissing(option=f"fit(inner={shown(inner)})")
    ravel = Ravel(bilevel.params)
    state = State.initial(bilevel, optimizer, optimizer, seed, hparams)
    loop = InnerLoop(bilevel, ravel, train, optimizer, seed, batch_size=batch_size)
    with OwnGenerators():
        fold, loss, _ = loop.run(state.active_fold, state.hparams, n_steps)
    if not math.isfinite(loss):
        raise Diverged(step=n_steps, what="training loss", where="optimizer")
    return Fitted(ravel.tree(fold.weights), fold.buffers, loss)
