"""No response, as in simultaneous gradient descent."""

from __future__ import annotations

from nestor import options
from nestor_engine.responses.response import Hypergradient, OuterStepContext, StatelessResponse
from nestor_engine.tensors.part_state import NoState


class DirectOnly(options.DirectOnly, StatelessResponse):
    """∂g/∂λ alone, as if the weights did not depend on λ [1].

    For most hyperparameters it is zero, because they enter the training loss only. It exists for comparison.

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """

    def hypergradient(self, context: OuterStepContext, state: NoState) -> tuple[Hypergradient, NoState]:
        """∂g/∂λ at one outer step; no training gradient is computed."""
        outer = context.outer()
        return Hypergradient(outer.by_hparams, outer.evaluation), state
