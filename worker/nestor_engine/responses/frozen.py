"""Training under fixed hyperparameters, with the records of a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nestor import options
from nestor_engine.responses.response import Hypergradient, OuterStepContext, Response
from nestor_engine.tensors.part_state import NoState, PartState


class Frozen(options.Frozen, Response[PartState]):
    """What was tuned is judged by a training from its first initialization [1].

    [1] Vicol et al. (2022), On implicit bias in overparameterized bilevel optimization.
    """

    if TYPE_CHECKING:
        measured: Response[Any] | None  # pyright: ignore[reportIncompatibleVariableOverride]

    def init(self) -> PartState:
        """That of what it measures."""
        return NoState() if self.measured is None else self.measured.init()

    def hypergradient(self, context: OuterStepContext, state: PartState) -> tuple[Hypergradient, PartState]:
        """That of what it measures, else zeros with the validation loss and metrics."""
        if self.measured is not None:
            return self.measured.hypergradient(context, state)
        zeros = {name: torch.zeros_like(value) for name, value in context.hparams.items()}
        return Hypergradient(zeros, context.outer().evaluation), state
