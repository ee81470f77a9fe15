"""Trainings from the first initialization under a trial's best hyperparameters: trials of the same study."""

from __future__ import annotations

import math
from typing import Any

from nestor.errors import NotFinished, NothingToConfirm, NothingTuned
from nestor.options import Frozen
from nestor.schemas import Nudge, Trial, TrialSpec
from nestor.schemas.problems import EntryPointProblem, PresetProblem, WarmStart


def expect_tuned(trial: Trial) -> None:
    """Refuse a trial that has no best hyperparameters of its own.

    Raises:
        NotFinished: the trial may find a better step.
        NothingTuned: the trial trained under fixed hyperparameters itself.
        NothingToConfirm: no step of the trial was evaluated.
    """
    if not trial.spec.response.tunes:
        raise NothingTuned(trial=str(trial.id))
    if not trial.state.finished:
        raise NotFinished(trial=str(trial.id), state=trial.state.value)
    best_step(trial)


def best_step(trial: Trial) -> int:
    """The best step, which there must be.

    Raises:
        NothingToConfirm: no step of the trial was evaluated.
    """
    if trial.best_step is None:
        raise NothingToConfirm(trial=str(trial.id))
    return trial.best_step


def options(trial: Trial, **chosen: Any) -> dict[str, Any]:
    """The options of a training in which they differ from those of `trial`, with those that are chosen for it."""
    # With folds, the weights of each have been trained in their turns only.
    turns = 1 if trial.spec.folds is None else trial.spec.folds.count
    steps = math.ceil(best_step(trial) / turns)
    return {"n_steps": steps, "response": Frozen(), "folds": None, "early_stopping": None, **chosen}


def specification(trial: Trial, changed: dict[str, Any], nudge: Nudge | None = None) -> TrialSpec:
    """The submission of a training.

    Args:
        changed: its `options`.
    """
    problem, seed = trial.spec.problem, trial.spec.seed
    if isinstance(problem, PresetProblem) and problem.preset.seed is None:
        problem = problem.model_copy(update={"preset": problem.preset.model_copy(update={"seed": seed})})
    if isinstance(problem, EntryPointProblem) and problem.seed is None:
        problem = problem.model_copy(update={"seed": seed})
    start = WarmStart(trial=trial.id, step=best_step(trial), weights=False, nudge=nudge)
    given: dict[str, Any] = {"problem": problem, "warm_start": start, "timeout": None, "user_attrs": {}, "tags": ()}
    return trial.spec.model_copy(update=changed | given)


def is_as_specified(run: Trial, expected: TrialSpec) -> bool:
    """Whether `run` was submitted so; its description may have changed since."""
    described = {name: getattr(expected, name) for name in ("priority", "user_attrs", "tags")}
    return run.spec.model_copy(update=described) == expected
