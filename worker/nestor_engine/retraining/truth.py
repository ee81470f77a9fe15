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
            "Lower the damping and solve more accurately, such as with Implicit(GaussNewton(damping=1e-3), "
            "WarmStarted(PreconditionedCG(steps=4))), or take more inner steps; Unrolled() is exact over the steps "
            "that it unrolls."
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
    config = config.model_copy(update={"folds": None, "early_stopping": None})
    bilevel = problem.bilevel()
    data = problem.data.to(Ravel(bilevel.params).device)
    changes = list(nudges(bilevel, retrainings, size=size, seed=config.seed))
    value, real = retrained(bilevel, data, config, changes)
    *_, last = hypergradients(bilevel, data, config)
    return Truth(value, tuple(predicted(last.gradient, changes)), tuple(real))


def hypergradients(bilevel: Bilevel, data: Data, config: options.Config) -> Iterator[Hypergradient]:
    """The hypergradients of a training under the initial hyperparameters, after every `inner_steps`.

    None moves anything. Each has the state of those before, such as a warm start.

    Args:
        data: on the device of the problem.

    Raises:
        Diverged: a loss is not finite.
    """
    return _Training(bilevel, data, config).hypergradients()


def predicted(hypergradient: Tensors, changes: Iterable[Tensors]) -> list[float]:
    """The change of the validation loss, to first order, under each of `changes`."""
    return [
        sum(float((hypergradient[name].double() * entry.double()).sum()) for name, entry in change.items())
        for change in changes
    ]


def retrained(
    bilevel: Bilevel, data: Data, config: options.Config, changes: Iterable[Tensors]
) -> tuple[float, list[float]]:
    """The validation loss after a training under the initial hyperparameters, and its change under each of `changes`.

    All trainings have the same initial weights, batches and draws.

    Args:
        data: on the device of the problem.

    Raises:
        Diverged: a loss is not finite.
    """
    training = _Training(bilevel, data, config)
    value = training.value(bilevel.hparams)
    changed = ({name: bilevel.hparams[name] + entry for name, entry in change.items()} for change in changes)
    return value, [training.value(hparams) - value for hparams in changed]


def _expect(argument: str, given: object, kind: type, expected: str) -> None:
    if not isinstance(given, kind):
        raise ArgumentInvalid(owner=NAME, argument=argument, given=shown(given), expected=expected)


class _Training:
    """A training under fixed hyperparameters, which can be repeated under others."""

    def __init__(self, bilevel: Bilevel, data: Data, config: options.Config) -> None:
        self._bilevel, self._config = bilevel, Config.of(config)
        self._stages = OuterStepStages(bilevel, data, self._config, config.seed, ALONE, TraceCache())
        self._evaluator = Evaluator(bilevel, Partition(data, None, None, config.seed), None)

    def hypergradients(self) -> Iterator[Hypergradient]:
        """Those between the inner steps, under the initial hyperparameters."""
        state = self._initial(self._bilevel.hparams)
        for step in range(self._config.n_steps):
            state, inner = self._stages.train_weights(self._stages.activate_fold(state))
            state, hypergradient = self._stages.take_hypergradient(state, inner)
            state = replace(state, step=step + 1)
            yield hypergradient

    def value(self, hparams: Tensors) -> float:
        """The loss on all validation examples after a training under `hparams`."""
        state = self._initial(hparams)
        for step in range(self._config.n_steps):
            state, _ = self._stages.train_weights(self._stages.activate_fold(state))
            state = replace(state, step=step + 1)
        return self._evaluator.on_validation(state)["loss"]

    def _initial(self, hparams: Tensors) -> State:
        config = self._config
        return State.initial(self._bilevel, config.inner, config.outer, config.seed, hparams)
