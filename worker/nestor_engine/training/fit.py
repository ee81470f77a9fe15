"""Plain training under fixed hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass

from nestor_engine.objective import Bilevel, PyTree, Tensors
from nestor_engine.optim.optimizers import Adam, Optimizer
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.inner_loop import InnerLoop
from nestor_engine.training.metrics import expect_finite
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
    inner: Optimizer | None = None,
    hparams: Tensors | None = None,
    seed: int = 0,
) -> Fitted:
    """Train the weights from their initial values under fixed hyperparameters: a baseline, or a final refit.

    Args:
        train: columns to train on; not necessarily those that were tuned on.
        n_steps: inner steps.
        hparams: before their transforms; the problem's initial ones by default.

    Raises:
        Diverged: the training loss is no longer finite.
    """
    inner = inner or Adam()
    ravel = Ravel(bilevel.params)
    state = State.initial(bilevel, inner, inner, seed, hparams)
    fold, loss, _ = InnerLoop(bilevel, ravel, train, inner, seed).run(state.active_fold, state.hparams, n_steps)
    expect_finite(loss, n_steps, "training loss", "optimizer")
    return Fitted(ravel.tree(fold.weights), fold.buffers, loss)
