"""Whether a hypergradient is true: what it predicts for other hyperparameters, and what retraining under them gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nestor import options
from nestor.errors import ArgumentInvalid, OptionOutOfRange, called_as, shown
from nestor.results.trainings.truth import Truth
from nestor.schemas.retrainings import LEAST_RETRAININGS
from nestor_engine.data.splits import Data
from nestor_engine.hparams.arguments import at_least, number, whole
from nestor_engine.objective import Bilevel
from nestor_engine.problem.problem import Problem
from nestor_engine.retraining.changes import changed_by, nudges
from nestor_engine.retraining.predictions import predicted
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.outer_loop import optimize
from nestor_engine.training.step import Step

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
        ArgumentInvalid, ConfigInvalid, OptionOutOfRange, ProblemInvalid: an argument cannot be used.
        Diverged: a loss is not finite.
    """
    _expect("problem", problem, Problem, "a nestor.Problem")
    _expect("config", config, options.Config, "a nestor.Config, such as nestor.Config(n_steps=60)")
    at_least(LEAST_RETRAININGS, NAME, "retrainings", whole(NAME, "retrainings", retrainings), largest=MOST)
    size = number(NAME, "size", size)
    if size <= 0:
        raise OptionOutOfRange(option=f"{NAME}(size={size:g})", rule="it must be above 0")
    bilevel, data = problem.bilevel(), problem.data
    *_, last = unmoved(bilevel, data, config)
    changes = list(nudges(bilevel, retrainings, size=size, seed=config.seed))
    value = _value_of(last)
    real = [retrained(changed_by(bilevel, change), data, config) - value for change in changes]
    return Truth(value, tuple(predicted(last.state.previous, changes)), tuple(real))


def unmoved(bilevel: Bilevel, data: Data, config: options.Config) -> Iterator[Step]:
    """A training under the initial hyperparameters: hypergradients are computed, and move nothing.

    Args:
        data: on any device.
        config: of the training. Folds and early stopping are left out.

    Raises:
        OptionOutOfRange: the response computes no hypergradient.
        Diverged: a loss is not finite.
    """
    if not isinstance(config.response, options.Tuning):
        given = f"{NAME}(config={shown(config.response)})"
        raise OptionOutOfRange(option=given, rule="pass a response with a hypergradient, such as Implicit()")
    return _steps(bilevel, data, config, options.Frozen(measured=config.response))


def retrained(bilevel: Bilevel, data: Data, config: options.Config) -> float:
    """The loss on all validation examples after a training under the initial hyperparameters.

    Trainings of the same configuration have the same initial weights, batches and draws.

    Args:
        bilevel, data, config: as for `unmoved`.

    Raises:
        Diverged: a loss is not finite.
    """
    *_, last = _steps(bilevel, data, config, options.Frozen())
    return _value_of(last)


def _steps(bilevel: Bilevel, data: Data, config: options.Config, response: options.Frozen) -> Iterator[Step]:
    """Those of a training that is evaluated at its end, on validation examples alone."""
    fixed: dict[str, Any] = {"response": response, "folds": None, "early_stopping": None}
    given: dict[str, Any] = {**dict(config), **fixed, "evaluate_every": config.n_steps}
    return optimize(bilevel, replace(data, test=None).to(Ravel(bilevel.params).device), options.Config(**given))


def _value_of(last: Step) -> float:
    assert last.value is not None  # the last step is always evaluated
    return last.value


def _expect(argument: str, given: object, kind: type, expected: str) -> None:
    if not isinstance(given, kind):
        raise ArgumentInvalid(owner=NAME, argument=argument, given=shown(given), expected=expected)
