"""Whether a hypergradient is true: what it predicts for other hyperparameters, and what retraining under them gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nestor import options
from nestor.errors import ArgumentInvalid, OptionOutOfRange, called_as, shown
from nestor.results.trainings.truth import Truth
from nestor.schemas.retrainings import LEAST_RETRAININGS
from nestor_engine.autodiff.trace_cache import TraceCache
from nestor_engine.config import Config
from nestor_engine.data.folds import Partition
from nestor_engine.data.splits import Data
from nestor_engine.distributed import ALONE
from nestor_engine.hparams.arguments import at_least, number, whole
from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.problem.problem import Problem
from nestor_engine.responses import Hypergradient
from nestor_engine.retraining.changes import changed_by, nudges
from nestor_engine.retraining.predictions import predicted
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.evaluator import Evaluator
from nestor_engine.training.stages import OuterStepStages
from nestor_engine.training.state import State

NAME = "nestor.truth"
MOST = 10_000  # retrainings


@called_as(NAME)
def truth(problem: Problem, config: options.Config, *, retrainings: int = 20, size: float = 0.1) -> Truth:
    """Whether the hypergradient at the end of a training predicts what retraining gives.

    The model is trained once under the initial hyperparameters, with a hypergradient after every `inner_steps` that
    moves nothing. Then it is trained again from the same initial weights, with the same batches and draws, under random
    changes of the hyperparameters. The last hypergradient predicts by how much each of them changes the loss on all
    validation examples.

    Args:
        config: as for `study.optimize`, such as `nestor.Config(n_steps=60)`. Folds and early stopping are left out.
        retrainings: trainings in all after the first one; at least 5.
        size: of the changes, before the transform: 0.1 multiplies most decays by 0.9 to 1.1.

    Raises:
        ArgumentInvalid, OptionOutOfRange, ProblemInvalid: an argument cannot be used.
        Diverged: a loss is not finite.
    """
    _expect("problem", problem, Problem, "a nestor.Problem")
    _expect("config", config, options.Config, "a nestor.Config, such as nestor.Config(n_steps=60)")
    at_least(LEAST_RETRAININGS, NAME, "retrainings", whole(NAME, "retrainings", retrainings), largest=MOST)
    size = number(NAME, "size", size)
    if size <= 0:
        raise OptionOutOfRange(option=f"{NAME}(size={size:g})", rule="it must be above 0")
    training = Training(problem.bilevel(), problem.data, config)
    changes = list(nudges(training.bilevel, retrainings, size=size, seed=config.seed))
    *_, (state, last) = training.hypergradients()
    value = training.value(state)
    real = [training.retrained(change) - value for change in changes]
    return Truth(value, tuple(predicted(last.gradient, changes)), tuple(real))


class Training:
    """A training under the initial hyperparameters, which can be repeated under others.

    Args:
        bilevel, data: the problem; the data may be on another device.
        config: of the training. Folds and early stopping are left out.
    """

    def __init__(self, bilevel: Bilevel, data: Data, config: options.Config) -> None:
        self.bilevel = bilevel
        self._config = Config.of(config.model_copy(update={"folds": None, "early_stopping": None}))
        data, seed = data.to(Ravel(bilevel.params).device), config.seed
        self._stages = OuterStepStages(bilevel, data, self._config, seed, ALONE, TraceCache())
        self._evaluator = Evaluator(bilevel, Partition(data, None, None, seed), None)

    def hypergradients(self) -> Iterator[tuple[State, Hypergradient]]:
        """Those after every `inner_steps`, none of which moves anything, each with the state after it.

        Each has what the response keeps of those before, such as a warm start.

        Raises:
            Diverged: a loss is not finite.
        """
        state = self._initial(self.bilevel.hparams)
        for _ in range(self._config.n_steps):
            trained, inner = self._stages.train_weights(state)
            state, hypergradient = self._stages.take_hypergradient(trained, inner)
            state = replace(state, step=state.step + 1)
            yield state, hypergradient

    def retrained(self, change: Tensors) -> float:
        """The validation loss after a training with the same initial weights, batches and draws.

        Args:
            change: hyperparameter → what is added to its initial value; others keep theirs.

        Raises:
            Diverged: a loss is not finite.
        """
        state = self._initial(changed_by(self.bilevel, change).hparams)
        for _ in range(self._config.n_steps):
            state, _ = self._stages.train_weights(state)
            state = replace(state, step=state.step + 1)
        return self.value(state)

    def value(self, state: State) -> float:
        """The loss on all validation examples."""
        return self._evaluator.on_validation(state)["loss"]

    def _initial(self, hparams: Tensors) -> State:
        config = self._config
        return State.initial(self.bilevel, config.inner, config.outer, config.seed, hparams)


def _expect(argument: str, given: object, kind: type, expected: str) -> None:
    if not isinstance(given, kind):
        raise ArgumentInvalid(owner=NAME, argument=argument, given=shown(given), expected=expected)
