"""The trainings that confirm a trial: their options, and what they found."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

from nestor.results.trainings import specifications
from nestor.schemas import Confirm, Confirmation, ConfirmationRun, Judged, State, Step, Trial, TrialSpec
from nestor.schemas.confirmations import TrainedOn

Run = tuple[TrainedOn, int]  # the examples, and the seed
SEEDS = 2**63  # all seeds are below it


def missing_runs(trial: Trial, asked: Confirm, present: Iterable[Trial]) -> list[Run]:
    """The trainings that are still to be submitted: those of `asked` without the ones that run or are complete.

    Raises:
        NotFinished, NothingTuned, NothingToConfirm: as `specifications.expect_tuned`.
    """
    specifications.expect_tuned(trial)
    there = {(run.spec.train_on, run.spec.seed) for run in present if run.state not in (State.failed, State.cancelled)}
    seeds = [(trial.spec.seed + n) % SEEDS for n in range(1, asked.seeds + 1)]
    return [run for run in product(dict.fromkeys(asked.on), seeds) if run not in there]


def options(trial: Trial, run: Run) -> dict[str, Any]:
    """The options of a training in which they differ from those of `trial`, whose best step there is."""
    on, seed = run
    return specifications.options(trial, train_on=on, seed=seed, trace=None)


def specification(trial: Trial, run: Run) -> TrialSpec:
    """The submission of a training."""
    return specifications.specification(trial, options(trial, run))


def is_run_of(run: Trial, trial: Trial) -> bool:
    """Whether `run` is a training that `confirm` submitted for the best step of `trial`."""
    if trial.best_step is None or run.spec.response.tunes:
        return False
    return specifications.is_as_specified(run, specification(trial, (run.spec.train_on, run.spec.seed)))


def confirmation(trial: Trial, best: Step | None, runs: Iterable[tuple[Trial, Step | None]]) -> Confirmation:
    """What is known.

    Args:
        best: the best step of `trial`.
        runs: its trainings, each with its last step.

    Raises:
        NothingToConfirm: no step of the trial was evaluated.
    """
    return Confirmation(
        trial=trial.id,
        step=specifications.best_step(trial),
        tuned=Judged(value=trial.best_value, **_on_test(best)),
        runs=tuple(_described(run, last) for run, last in sorted(runs, key=lambda pair: pair[0].number)),
    )


def _described(run: Trial, last: Step | None) -> ConfirmationRun:
    numbers: dict[str, Any] = {}
    if run.state is State.complete:
        judges = run.spec.train_on == "train"  # else the validation examples trained
        numbers = {"value": run.value if judges else None, **_on_test(last)}
    return ConfirmationRun(
        trial=run.id, number=run.number, on=run.spec.train_on, seed=run.spec.seed, state=run.state, **numbers
    )


def _on_test(step: Step | None) -> dict[str, Any]:
    return {} if step is None else {"test_loss": step.test_loss, "test_metrics": step.test_metrics}
