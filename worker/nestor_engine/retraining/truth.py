"""Whether a hypergradient is true: what it predicts for other hyperparameters, and what retraining under them gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from nestor import options
from nestor.errors import ArgumentInvalid, OptionOutOfRange, called_as, shown
from nestor_engine.autodiff.trace_cache import TraceCache
from nestor_engine.config import Config
from nestor_engine.data.folds import Partition
from nestor_engine.data.splits import Data
from nestor_engine.distributed import ALONE
from nestor_engine.hparams.arguments import at_least, number, whole
from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.problem.problem import Problem
from nestor_engine.responses import Hypergradient
from nestor_engine.retraining.changes import nudges
from nestor_engine.retraining.ranks import interval, spearman
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.evaluator import Evaluator
from nestor_engine.training.stages import OuterStepStages
from nestor_engine.training.state import State

NAME = "nestor.truth"
TRUE, DOUBTFUL = 0.6, 0.35  # scores
LEAST, MOST = 5, 10_000  # retrainings; with fewer, a rank correlation says nothing
ROUNDING = 1e-6  # relative: changes of a loss in float32 that may be rounding alone


@dataclass(frozen=True)
class Truth:
    """Predicted and real changes of the validation loss, one of each for a retraining.

    Attributes:
        value: the validation loss under the unchanged hyperparameters.
        predicted: the hypergradient times the change of the hyperparameters.
        real: the validation loss after a training under the changed hyperparameters, minus `value`.
    """

    value: float
    predicted: tuple[float, ...]
    real: tuple[float, ...]

    @property
    def score(self) -> float:
        """The rank correlation of both, from −1 to 1: the linear datamodeling score [1].

        [1] Park et al. (2023), TRAK: attributing model behavior at scale.
        """
        return spearman(self.predicted, self.real)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the score of many retrainings lies with a probability of 95 %."""
        return interval(self.score, len(self.real))

    @property
    def is_measurable(self) -> bool:
        """Whether the real changes are larger than rounding."""
        return max(map(abs, self.real)) > ROUNDING * abs(self.value)

    @property
    def sentence(self) -> str:
        """The result, and what to do about it."""
        if not self.is_measurable:
            return (
                f"Retraining changed the validation loss of {self.value:.4g} by less than its rounding, so this says "
                "nothing. Pass a larger size, or check that the training loss reads the hyperparameters."
            )
        low, high = self.interval
        found = f"its score over {len(self.real)} retrainings is {self.score:.2f} ({low:.2f} to {high:.2f})"
        if self.score >= TRUE:
            return f"The hypergradient predicts what retraining gives: {found}."
        remedy = (
            "Let the response reach as far as the training, such as with Implicit(GaussNewton(damping='auto'), "
            "WarmStarted(PreconditionedCG())), or take more inner steps; Unrolled() is exact over the steps that it "
            "unrolls."
        )
        if self.score >= DOUBTFUL:
            return f"The hypergradient predicts roughly what retraining gives: {found}. {remedy}"
        return f"The hypergradient does not predict what retraining gives: {found}. {remedy}"


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
    at_least(LEAST, NAME, "retrainings", whole(NAME, "retrainings", retrainings), largest=MOST)
    size = number(NAME, "size", size)
    if size <= 0:
        raise OptionOutOfRange(option=f"{NAME}(size={size:g})", rule="it must be above 0")
    training = Training(problem.bilevel(), problem.data, config)
    changes = list(nudges(training.bilevel, retrainings, size=size, seed=config.seed))
    *_, (state, last) = training.hypergradients()
    value = training.value(state)
    real = [training.retrained(change) - value for change in changes]
    return Truth(value, tuple(predicted(last.gradient, changes)), tuple(real))


def predicted(hypergradient: Tensors, changes: Iterable[Tensors]) -> list[float]:
    """The change of the validation loss, to first order, under each of `changes`."""
    return [
        sum(float((hypergradient[name].double() * entry.double()).sum()) for name, entry in change.items())
        for change in changes
    ]


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
        initial = self.bilevel.hparams
        state = self._initial(initial | {name: initial[name] + entry for name, entry in change.items()})
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
