"""The trainings that show whether a trial's hypergradient is true: their options, and what they found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nestor.options import Frozen, Tuning
from nestor.results.trainings import specifications
from nestor.results.trainings.truth import Truth
from nestor.schemas import Nudge, Retrain, Retraining, State, Step, Trial, TrialSpec, TruthReport
from nestor.schemas.retrainings import LEAST_RETRAININGS


def missing_runs(trial: Trial, asked: Retrain, present: Iterable[Trial]) -> list[Nudge]:
    """The trainings that are still to be submitted: those of `asked` without the ones that run or are complete.

    Args:
        present: the trainings of this size.

    Raises:
        NotFinished, NothingTuned, NothingToConfirm: as `specifications.expect_tuned`.
    """
    specifications.expect_tuned(trial)
    there = {_number(run) for run in present if not run.state.finished or _is_complete(run)}
    numbers = [number for number in (None, *range(asked.retrainings)) if number not in there]
    return [Nudge(size=asked.size, number=number) for number in numbers]


def options(trial: Trial, nudge: Nudge) -> dict[str, Any]:
    """The options of a training in which they differ from those of `trial`, whose best step there is."""
    changed = specifications.options(trial)
    changed["evaluate_every"] = changed["n_steps"]
    # The one under unchanged hyperparameters has the hypergradient that predicts the others.
    if nudge.number is not None:
        return changed | {"trace": None}
    response = trial.spec.response
    assert isinstance(response, Tuning)
    return changed | {"response": Frozen(measured=response)}


def specification(trial: Trial, nudge: Nudge) -> TrialSpec:
    """The submission of a training."""
    return specifications.specification(trial, options(trial, nudge), nudge)


def is_run_of(run: Trial, trial: Trial, size: float) -> bool:
    """Whether `run` is a training of this size that `truth` submitted for the best step of `trial`."""
    nudge = None if run.spec.warm_start is None else run.spec.warm_start.nudge
    if trial.best_step is None or not trial.spec.response.tunes or nudge is None or nudge.size != size:
        return False
    return specifications.is_as_specified(run, specification(trial, nudge))


def report(trial: Trial, size: float, runs: Iterable[tuple[Trial, Step | None]]) -> TruthReport:
    """What is known.

    Args:
        runs: its trainings of this size, each with its last step.

    Raises:
        NothingToConfirm: no step of the trial was evaluated.
    """
    ordered = sorted(runs, key=lambda pair: pair[0].number)
    unchanged = next((last for run, last in ordered if _number(run) is None and _is_complete(run)), None)
    described = tuple(_described(run, last, unchanged) for run, last in ordered)
    value = None if unchanged is None else unchanged.value
    found = TruthReport(
        trial=trial.id, step=specifications.best_step(trial), size=size, value=value, runs=described, sentence=""
    )
    if value is None or len(found.real) < LEAST_RETRAININGS:
        return found.model_copy(
            update={"sentence": _too_few([run for run, _ in ordered], is_predicted=value is not None)}
        )
    truth = Truth(value, found.predicted, found.real)
    return found.model_copy(update={"score": truth.score, "interval": truth.interval, "sentence": truth.sentence})


def _described(run: Trial, last: Step | None, unchanged: Step | None) -> Retraining:
    number = _number(run)
    described = Retraining(trial=run.id, number=run.number, nudge=number, state=run.state)
    if unchanged is None or unchanged.value is None or number is None:
        return described
    real = None
    if _is_complete(run) and last is not None and last.value is not None:
        real = last.value - unchanged.value
    return described.model_copy(update={"predicted": unchanged.predicted.get(str(number)), "real": real})


def _too_few(runs: list[Trial], *, is_predicted: bool) -> str:
    if not runs:
        return "Nothing was trained again yet. Call trial.truth()."
    asked = {_number(run) for run in runs} - {None}
    complete = {_number(run) for run in runs if _is_complete(run)} - {None}
    needed = f"A score needs {LEAST_RETRAININGS}"
    if not is_predicted:
        needed += ", and the training under unchanged hyperparameters"
    return f"{len(complete)} of {len(asked)} retrainings are complete. {needed}."


def _number(run: Trial) -> int | None:
    assert run.spec.warm_start is not None
    assert run.spec.warm_start.nudge is not None
    return run.spec.warm_start.nudge.number


def _is_complete(run: Trial) -> bool:
    """Whether it took all of its steps and no more, so that it can be compared."""
    return run.state is State.complete and run.step == run.spec.n_steps
