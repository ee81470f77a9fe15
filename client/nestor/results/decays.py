"""Tuned weight decays as parameter groups for `torch.optim`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nestor.errors import ArgumentInvalid, DecayNotInGroups, DecaysForAnotherModel, called_as, shown
from nestor.extras import engine
from nestor.results.values import Values, members

if TYPE_CHECKING:
    from torch import Tensor, nn


@called_as("nestor.param_groups")
def param_groups(model: nn.Module, hparams: Values, *, name: str = "l2") -> list[dict[str, Any]]:
    """Parameter groups with the decays of `L2` as `weight_decay`, for `torch.optim.SGD` and others that couple it.

    `L2` adds ½ exp(λ) w² to the loss, whose gradient exp(λ) w is what SGD and Adam add for `weight_decay=exp(λ)`.
    AdamW decouples its decay from the gradient, so it trains differently with the same number.

    Args:
        model: of the architecture that the trial tuned; frozen parameters are in no group.
        name: of the decays: "l2", or "l2.head" of `L2(model, per="tensor", only="head")`.

    Returns:
        One dict per weight decay, in order of the parameters; those without a decay form a last group.

    Raises:
        HparamNotFound: there are no decays of that name.
        DecayNotInGroups: decays differ inside of a tensor, as with `per="weight"`.
        DecaysForAnotherModel: there are more or fewer decays than tensors of the model.
        MissingExtra: the engine is not installed.
    """
    trainable = engine("nestor_engine.hparams.weights", what="nestor.param_groups").trainable
    from torch.nn import Module

    owner = "nestor.param_groups"
    if not isinstance(model, Module):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise ArgumentInvalid(owner=owner, argument="model", given=shown(model), expected="a torch.nn.Module")
    if not isinstance(hparams, Values):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise ArgumentInvalid(owner=owner, argument="hparams", given=shown(hparams), expected="trial.best_hparams")
    weights: dict[str, Tensor] = trainable(model)
    decays = _decay_of_each(weights, members(hparams.transformed, name), name)
    groups: dict[float | None, list[Tensor]] = {}
    for parameter, weight in weights.items():
        groups.setdefault(decays.get(parameter), []).append(weight)
    bare = groups.pop(None, [])
    found: list[dict[str, Any]] = [{"params": params, "weight_decay": decay} for decay, params in groups.items()]
    return found + ([{"params": bare, "weight_decay": 0.0}] if bare else [])


def _decay_of_each(weights: dict[str, Tensor], values: dict[str, Tensor], name: str) -> dict[str, float]:
    """Parameter → its decay. Parameters outside of the part that decays have none."""
    if name not in values:  # one entry for each parameter
        named = {full.removeprefix(f"{name}."): value for full, value in values.items()}
        if any(value.ndim for value in named.values()):
            raise DecayNotInGroups(name=name)
        if odd := next((parameter for parameter in named if parameter not in weights), None):
            raise DecaysForAnotherModel(name=name, reason=f"{odd!r} is no trained parameter of the model")
        return {parameter: value.item() for parameter, value in named.items()}
    value = values[name]
    parts = name.partition(".")[2].split("+") if "." in name else []
    if parts and parts[0] in weights and value.shape == weights[parts[0]].shape and value.ndim:
        raise DecayNotInGroups(name=name)
    chosen = [w for w in weights if not parts or any(w == part or w.startswith(f"{part}.") for part in parts)]
    if not chosen or (value.ndim and len(value) != len(chosen)):
        raise DecaysForAnotherModel(
            name=name, reason=f"there are {value.numel()} of them, for {len(chosen)} trained tensors"
        )
    return {parameter: decay.item() for parameter, decay in zip(chosen, value.expand(len(chosen)), strict=True)}
