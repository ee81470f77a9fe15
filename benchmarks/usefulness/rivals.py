"""What a researcher would do without hypergradients. Each rival ends with the score on test data.

An outer step of ours costs about 8 training gradients beside its 5 inner ones, so a tuned run costs about 2.6
trainings; one more confirms it. Rivals that choose get `Effort.trainings`, 8 by default, and one more to refit. They
choose by the score on validation data, and by the loss among equal scores, which on noisy labels serves them better
than the loss alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.usefulness.common import DECAY, divided, seeded
from benchmarks.usefulness.searches import SAMPLERS, searched
from benchmarks.usefulness.setting import Setting, Values
from benchmarks.usefulness.task import Columns, Splits
from benchmarks.usefulness.tasks.scarce import BALANCE

Rival = Callable[[Setting], float]
FOLDS = 5  # whose networks judge the labels of the examples that they have not seen
JUDGING = 0.25  # of the validation data, where these train


def untuned(setting: Setting) -> float:
    """Training data alone, and no knob turned."""
    return setting.judged({}, setting.splits).score


def both(setting: Setting) -> float:
    """Training and validation data together, and no knob turned."""
    return setting.refitted({}, setting.splits)


def grid(setting: Setting) -> float:
    """The best of several decays, refitted."""
    return _by_grid(setting, setting.splits, {})


def search(sampler: str) -> Rival:
    """All knobs of the task by a sampler of Optuna, refitted."""
    return lambda setting: setting.refitted(searched(setting, sampler), setting.splits)


def validation_alone(setting: Setting) -> float:
    """The validation data in place of the training data: a part judges the decays, and all of them train at last."""
    given = setting.splits
    n = len(given.val["y"])
    n_judging = round(JUDGING * n)
    parts = divided(given.val, (n - n_judging, n_judging), seeded(setting.seed))
    return _by_grid(setting, replace(given, train=parts.train, val=parts.val), {})


def class_balanced(setting: Setting) -> float:
    """Losses weighted by the inverse frequency of their classes, and the decay by grid."""
    return _by_grid(setting, setting.splits, {BALANCE.name: BALANCE.high})


def cleanlab(setting: Setting) -> float:
    """Confident learning: examples whose label cross-validated networks doubt are left out; the decay by grid.

    Northcutt, Jiang and Chuang (2021), Confident learning: estimating uncertainty in dataset labels.
    """
    from cleanlab.filter import find_label_issues  # takes a second to import

    given = setting.splits
    labels, probabilities = given.train["y"], _out_of_sample(setting)
    doubted = torch.from_numpy(find_label_issues(labels.numpy(), probabilities.numpy(), n_jobs=1))
    return _by_grid(setting, given.training_on(_taken(given.train, ~doubted)), {})


RIVALS: dict[str, Rival] = {
    "untuned": untuned,
    "both": both,
    "validation alone": validation_alone,
    "grid": grid,
    **{name: search(name) for name in SAMPLERS},
    "class-balanced": class_balanced,
    "cleanlab": cleanlab,
}
SPECIAL = {"class-balanced", "cleanlab"}  # only of the tasks that name them


def _by_grid(setting: Setting, splits: Splits, fixed: Values) -> float:
    exponents = torch.linspace(math.log(DECAY.low), math.log(DECAY.high), setting.effort.trainings).tolist()
    decays = [{**fixed, DECAY.name: math.exp(exponent)} for exponent in exponents]
    return setting.refitted(setting.best(decays, splits), splits)


def _out_of_sample(setting: Setting) -> Tensor:
    """Of each training example, the class probabilities of a network that did not see it, shape (n, classes)."""
    given = setting.splits
    n = len(given.train["y"])
    found: dict[int, Tensor] = {}
    for part in torch.randperm(n, generator=seeded(setting.seed)).chunk(FOLDS):
        others = torch.ones(n, dtype=torch.bool)
        others[part] = False
        problem = setting.task.fixed(given.training_on(_taken(given.train, others)), setting.seed, {})
        fitted, bilevel = setting.fitted(problem), problem.bilevel()
        values = bilevel.values(bilevel.hparams)
        with torch.no_grad():
            outputs = bilevel.predict(fitted.params, fitted.buffers, values, _taken(given.train, part))
        found |= dict(zip(part.tolist(), outputs.softmax(1), strict=True))
    return torch.stack([found[k] for k in range(n)])


def _taken(columns: Columns, which: Tensor) -> Columns:
    return {name: values[which] for name, values in columns.items()}
