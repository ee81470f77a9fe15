"""Tuning by hypergradients with Nestor's defaults, and the trainings that confirm it."""

from __future__ import annotations

import math
from typing import Literal

import nestor
import nestor_engine as engine
from benchmarks.usefulness.setting import Setting

AS_LEFT = "ours, as left"
ON_TRAIN = "ours, confirmed on train"
ON_ALL = "ours, confirmed on all"
ROWS = (AS_LEFT, ON_TRAIN, ON_ALL)
JUDGED = ON_ALL  # the row that meets the rivals; it is not chosen by results


def ours(setting: Setting) -> dict[str, float]:
    """The score of the weights at the best step by validation loss, and of both trainings with its hyperparameters."""
    config = setting.config
    problem = setting.task.tuned(setting.splits, setting.seed)
    steps = engine.optimize(problem.bilevel(), problem.data, config)
    best = min(steps, key=lambda step: math.inf if step.value is None else step.value)
    return {
        AS_LEFT: best.test_metrics["score"],
        ON_TRAIN: confirmed(problem, best, config, "train"),
        ON_ALL: confirmed(problem, best, config, "train+val"),
    }


def confirmed(
    problem: nestor.Problem, best: engine.Step, config: nestor.Config, on: Literal["train", "train+val"]
) -> float:
    """The score after training as `trial.confirm` does: from the first initialization, for as long as the best step."""
    frozen = {"response": nestor.Frozen(), "trace": None, "folds": None, "early_stopping": None}
    changed = {"n_steps": best.number, "train_on": on, "seed": config.seed + 1}
    bilevel = engine.start_from(problem.bilevel(), best.state.hparams)
    *_, last = engine.optimize(bilevel, problem.data, config.model_copy(update=frozen | changed))
    return last.test_metrics["score"]
