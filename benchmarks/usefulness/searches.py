"""Searches by Optuna's samplers over all knobs of a task."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from benchmarks.usefulness.setting import Setting, Values

FIRST = 3  # random proposals before a model proposes; Optuna's ten would leave it no proposal

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "TPE": lambda seed: TPESampler(seed=seed, n_startup_trials=FIRST),
    "GP": lambda seed: GPSampler(seed=seed, n_startup_trials=FIRST),
}


def searched(setting: Setting, sampler: str) -> Values:
    """The values of the proposal with the lowest validation loss."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, BaseDistribution] = {
        knob.name: FloatDistribution(knob.low, knob.high, log=knob.log) for knob in setting.task.knobs
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=SAMPLERS[sampler](setting.seed))
    for _ in range(setting.effort.trainings):
        trial = study.ask(space)
        study.tell(trial, setting.judged(trial.params, setting.splits).value)
    return study.best_params
