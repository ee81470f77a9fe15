"""No hypergradient: training under fixed hyperparameters, with the records of a trial."""

from __future__ import annotations

import torch

from nestor import options
from nestor_engine.responses.response import Hypergradient, OuterStepContext, StatelessResponse
from nestor_engine.tensors.part_state import NoState


class Frozen(options.Frozen, StatelessResponse):
    """Zero for every hyperparameter: what was tuned is judged by a training from its first initialization [1].

    [1] Vicol et al. (2022), On implicit bias in overparameterized bilevel optimization.
    """

    def hypergradient(self, context: OuterStepContext, state: NoState) -> tuple[Hypergradient, NoState]:
        """Zeros, and the validation loss and metrics at one outer step."""
        zeros = {name: torch.zeros_like(value) for name, value in context.hparams.items()}
        return Hypergradient(zeros, context.outer().evaluation), state
