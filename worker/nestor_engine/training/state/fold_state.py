"""The training of one fold: weights, buffers, the inner optimizer's state and what the response keeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.tensors.layout import Layout
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.state.checkpoint import prefixed

# Attribute of a fold → the group of its tensors in a checkpoint.
FOLD_GROUPS = {"buffers": "buffers", "optimizer_state": "inner", "response": "memory"}


@dataclass(frozen=True)
class FoldState:
    """The training of one fold.

    Attributes:
        weights: shape (n,).
        optimizer_state: the inner optimizer's, named vectors of shape (n,).
        response: what the response keeps, such as the adjoint and the curvature's norm; see `tensors.part_state`.
        inner_steps: taken so far.
        inner_gradient_start: ‖∂f/∂w‖ at the first inner step; None before it.
    """

    weights: Tensor
    buffers: Tensors
    optimizer_state: Tensors
    response: Tensors = field(default_factory=dict)
    inner_steps: int = 0
    inner_gradient_start: float | None = None

    @staticmethod
    def initial(bilevel: Bilevel, inner: Optimizer, hparams: Tensors) -> FoldState:
        """Before the first inner step, under `hparams`."""
        weights = Ravel(bilevel.params).vector(bilevel.initial(bilevel.params, bilevel.values(hparams))).detach()
        # Sorted, as after a checkpoint: traces and recordings that folds share take the buffers by position.
        return FoldState(weights, dict(sorted(bilevel.buffers.items())), inner.init(weights))

    def to(self, device: torch.device | str) -> FoldState:
        """The same state with its tensors on `device`."""
        groups = {name: moved(getattr(self, name), device) for name in FOLD_GROUPS}
        return replace(self, weights=self.weights.to(device), **groups)

    def to_tensors(self, layout: Layout | None) -> Tensors:
        """The tensors by their keys in a checkpoint, without the prefix of an inactive fold.

        Args:
            layout: of the weights; None for a state of format 2, whose weights stay one vector.
        """
        keyed = {"weights": self.weights} if layout is None else prefixed("params", layout.split(self.weights))
        for name, group in FOLD_GROUPS.items():
            keyed |= prefixed(group, getattr(self, name))
        return keyed

    @staticmethod
    def from_tensors(
        groups: dict[str, Tensors], layout: Layout | None, inner_steps: int, inner_gradient_start: float | None
    ) -> FoldState:
        """The state that `to_tensors` wrote.

        Args:
            groups: first part of the key → rest of it → tensor. The groups that are read are removed.

        Raises:
            KeyError, ValueError: a tensor is missing, unknown, or of another shape than `layout` says.
        """
        weights = groups.pop("weights")[""] if layout is None else layout.vector(groups.pop("params"))
        named = {name: groups.pop(group, {}) for name, group in FOLD_GROUPS.items()}
        if groups:
            raise ValueError(f"it contains the unknown tensor {sorted(groups)[0]!r}")
        return FoldState(weights, **named, inner_steps=inner_steps, inner_gradient_start=inner_gradient_start)


def moved(named: Tensors, device: torch.device | str) -> Tensors:
    """Each tensor on `device`; a tensor that is there already is not copied."""
    return {name: value.to(device) for name, value in named.items()}
