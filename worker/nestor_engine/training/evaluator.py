"""What is evaluated after an outer step: all held-out, all validation and all test examples."""

from __future__ import annotations

import math

from nestor.errors import Diverged
from nestor_engine.data.folds import Partition
from nestor_engine.distributed import ALONE, Group
from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.tensors.random import derive_seed, randomness
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.evaluation import evaluate
from nestor_engine.training.metrics import mean_of
from nestor_engine.training.state import FoldState, State

Evaluated = dict[str, float]  # "loss" and the metrics


class Evaluator:
    """Evaluates the weights and hyperparameters of a state. No evaluation changes the trajectory.

    Random draws of the problem are functions of the seed and the step.
    """

    def __init__(self, bilevel: Bilevel, partition: Partition, test: Tensors | None, group: Group = ALONE) -> None:
        self._bilevel, self._partition, self._test, self._group = bilevel, partition, test, group
        self._ravel = Ravel(bilevel.params)

    def on_held_out(self, state: State) -> tuple[State, Evaluated]:
        """The mean over the last evaluation of each fold, which the state keeps; empty if nothing is held out.

        Raises:
            Diverged: the loss is not finite.
        """
        if self._partition.held_out is None:
            return state, {}
        found = self._evaluate(state, state.active_fold, self._partition.held_out)
        _expect_finite(state, "held-out loss", found["loss"])
        return state.with_held_out(found, self._partition.folds)

    def on_validation(self, state: State) -> Evaluated:
        """The mean over the folds that have begun, each on all of its validation examples.

        Raises:
            Diverged: the loss is not finite.
        """
        found = mean_of(
            [self._evaluate(state, fold, self._partition.validation(number)) for number, fold in enumerate(state.folds)]
        )
        _expect_finite(state, "loss on all validation examples", found["loss"])
        return found

    def on_test(self, state: State) -> Evaluated:
        """The active fold on the test set; empty without a test set."""
        return {} if self._test is None else self._evaluate(state, state.active_fold, self._test)

    def _evaluate(self, state: State, fold: FoldState, columns: Tensors) -> Evaluated:
        params = self._ravel.tree(fold.weights)
        with randomness(self._group.seed(derive_seed(state.seed, "evaluation", state.step)), self._ravel.device):
            return evaluate(self._bilevel, params, fold.buffers, state.hparams, columns, self._group)


def _expect_finite(state: State, what: str, loss: float) -> None:
    if not math.isfinite(loss):
        raise Diverged(step=state.step, what=what, where="inner optimizer")
