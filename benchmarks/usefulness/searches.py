"""Searches by Optuna's samplers over all knobs of a task."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from benchmarks.usefulness.setting import Judged, Setting, Values

FIRST = 3  # random proposals before a model proposes; Optuna's ten would leave it no proposal

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "TPE": lambda seed: TPESampler(seed=seed, n_startup_trials=FIRST),
    "GP": lambda seed: GPSampler(seed=seed, n_startup_trials=FIRST),
}


def searched(setting: Setting, sampler: str) -> Values:
    """The proposal that is best on validation data."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, BaseDistribution] = {
        knob.name: FloatDistribution(knob.low, knob.high, log=knob.log) for knob in setting.task.knobs
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=SAMPLERS[sampler](setting.seed), direction="maximize")
    judged: list[tuple[Judged, Values]] = []
    for _ in range(setting.effort.trainings):
        trial = study.ask(space)
        judged.append((setting.judged(trial.params, setting.splits), trial.params))
        study.tell(trial, judged[-1][0].val_score)
    return max(judged, key=lambda pair: pair[0].rank)[1]
