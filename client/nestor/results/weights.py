"""Trained weights, from a trial's checkpoint into a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestor.errors import InvalidInput
from nestor.extras import engine

if TYPE_CHECKING:
    from torch import nn


def load(checkpoint: bytes, model: nn.Module) -> int:
    """Write the weights and buffers of `checkpoint` into `model`, whole or not at all, and give its step.

    Raises:
        InvalidInput: the model has other weights or buffers.
    """
    state = engine("nestor_engine.training.state", what="trial.load_weights").State.load(checkpoint).to("cpu")
    from nestor_engine.hparams.weights import trainable

    trained = list(trainable(model).values())  # in whose order the checkpoint has them, as one vector
    sizes = [parameter.numel() for parameter in trained]
    if state.weights.numel() != sum(sizes):
        raise InvalidInput(
            reason=f"The trial trained {state.weights.numel():,} weights, and {sum(sizes):,} of this model require "
            "gradients. Pass the model that the problem was made with, or one that is built in the same way."
        )
    kept = dict(model.named_buffers()) | dict(model.named_parameters())  # parameters that are not trained count as kept
    buffers = {name: value for name, value in state.buffers.items() if name in kept}
    for name, value in buffers.items():
        if kept[name].shape != value.shape:
            raise InvalidInput(
                reason=f"The trial's buffer {name!r} has the shape {tuple(value.shape)}, and this model's "
                f"{tuple(kept[name].shape)}. Pass the model that the problem was made with."
            )
    for parameter, part in zip(trained, state.weights.split(sizes), strict=True):
        parameter.detach().copy_(part.view_as(parameter))
    for name, value in buffers.items():
        kept[name].detach().copy_(value)
    return state.step
