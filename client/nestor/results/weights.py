"""What a trial has trained, as modules: the weights of a checkpoint, and the network of `LossReweighting`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestor.errors import ArgumentInvalid, CheckpointMismatch, shown
from nestor.extras import engine

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nestor.results.values import Values
    from nestor_engine.hparams.loss_reweighting import LossReweighting, Rater


def load(checkpoint: bytes, model: nn.Module) -> int:
    """Copy the weights and buffers of `checkpoint` into `model` by name, and return the checkpoint's step.

    Nothing is copied if a tensor does not fit. A buffer or frozen parameter of the model that the checkpoint lacks
    keeps its value, because hyperparameters may have supplied it. Checkpoints of format 2 do not name the weights:
    these are copied in the order of the model's parameters after a check of their number.

    Raises:
        CheckpointMismatch: a tensor is missing, unexpected or of another shape, naming the first.
        StateInvalid: the bytes are no checkpoint that this version reads.
        MissingExtra: the engine is not installed.
    """
    state_class = engine("nestor_engine.training.state", what="trial.load_weights").State
    from torch.nn import Module

    from nestor_engine.hparams.weights import trainable
    from nestor_engine.problem.model.wrappers import unwrapped
    from nestor_engine.tensors.layout import difference, shapes_of

    if not isinstance(model, Module):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise ArgumentInvalid(owner="load_weights", argument="model", given=shown(model), expected="a torch.nn.Module")
    model = unwrapped(model)
    trained = trainable(model)
    state = state_class.load(checkpoint).to("cpu")
    n = sum(parameter.numel() for parameter in trained.values())
    if state.layout is None and state.weights.numel() != n:
        raise _other_model(f"it holds {state.weights.numel():,} weights, and {n:,} of this model require gradients")
    # A frozen parameter of the model may be a trained one of the checkpoint, and the other way round.
    held = {**state.with_layout(trained).params, **state.buffers}
    kept = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    wanted = {name: value for name, value in kept.items() if name in trained or name in held}
    if reason := difference("tensor", shapes_of(held), shapes_of(wanted), "model"):
        raise _other_model(reason)
    for name, value in held.items():
        wanted[name].detach().copy_(value)
    return state.step


def state_dict(checkpoint: bytes, model: nn.Module | None) -> dict[str, Tensor]:
    """The weights and buffers of `checkpoint` by name, on the CPU; with `model`, for all that its state dict names.

    Raises:
        CheckpointMismatch: they do not fit `model`, or they have no names and there is no `model`.
        StateInvalid: the bytes are no checkpoint that this version reads.
        MissingExtra: the engine is not installed.
    """
    state_class = engine("nestor_engine.training.state", what="trial.state_dict").State
    if model is None:
        state = state_class.load(checkpoint).to("cpu")
        if state.layout is None:
            raise _other_model("it does not name its weights, so pass the model: trial.state_dict(model)")
        return {name: value.detach().clone() for name, value in {**state.params, **state.buffers}.items()}
    from copy import deepcopy

    from torch.nn import Module

    from nestor_engine.problem.model.wrappers import unwrapped

    if not isinstance(model, Module):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise ArgumentInvalid(owner="state_dict", argument="model", given=shown(model), expected="a torch.nn.Module")
    copy = deepcopy(unwrapped(model)).cpu()
    load(checkpoint, copy)
    return dict(copy.state_dict())


def rater(hparams: Values, rating: LossReweighting) -> Rater:
    """The network of `rating` with the values of `hparams`; `trial.rater` documents it."""
    kind = engine("nestor_engine.hparams", what="trial.rater").LossReweighting
    if not isinstance(rating, kind):
        expected = "the LossReweighting of the problem, or one with a network of the same architecture"
        raise ArgumentInvalid(owner="trial.rater", argument="rating", given=shown(rating), expected=expected)
    return rating.rater(hparams)


def _other_model(reason: str) -> CheckpointMismatch:
    return CheckpointMismatch(reason=reason)
