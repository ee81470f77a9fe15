"""Retrainings: does the hypergradient of a trial predict what training under other hyperparameters gives?"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from nestor.options.base import Number, Positive, Whole, about
from nestor.schemas.base import Schema
from nestor.schemas.steps import MAX_PREDICTIONS
from nestor.schemas.trials import State

LEAST_RETRAININGS = 5  # with fewer, a rank correlation says nothing


class Retrain(Schema):
    """A request to train again from the first initialization under changes of a trial's best hyperparameters."""

    retrainings: Annotated[
        Whole,
        about(
            "trainings under changed hyperparameters, besides one under those of the best step",
            ge=LEAST_RETRAININGS,
            le=MAX_PREDICTIONS,
        ),
    ] = 20
    size: Annotated[
        Positive, about("standard deviation of the change of an entry, before the transform", example=0.1)
    ] = 0.1


class Retraining(Schema):
    """One training under fixed hyperparameters: a trial of the same study."""

    trial: Annotated[UUID, about("identifies the training's trial")]
    number: Annotated[int, about("the trial's number in the study", example=4)]
    nudge: Annotated[int | None, about("which random change was added to the hyperparameters; null: none", example=3)]
    state: Annotated[State, about("numbers are there once it is complete")]
    predicted: Annotated[
        Number | None,
        about(
            "change of the loss on all validation examples that the hypergradient predicts; null: not known yet, or "
            "nothing was changed",
            example=-0.0007,
        ),
    ] = None
    real: Annotated[
        Number | None,
        about("that change after training again; null: not known yet, or nothing was changed", example=-0.0009),
    ] = None


class TruthReport(Schema):
    """What a hypergradient predicts for other hyperparameters, and what retraining under them gives.

    `str(report)` is the sentence.
    """

    trial: Annotated[UUID, about("whose best hyperparameters are changed")]
    step: Annotated[int, about("its best step, whose hyperparameters these are", example=280)]
    size: Annotated[float, about("standard deviation of the change of an entry, before the transform", example=0.1)]
    value: Annotated[
        Number | None,
        about("loss on all validation examples under unchanged hyperparameters; null: not known yet", example=0.42),
    ] = None
    runs: Annotated[tuple[Retraining, ...], about("the trainings, by their number")]
    score: Annotated[
        float | None,
        about(
            "rank correlation of predicted and real changes, from −1 to 1; null: fewer than "
            f"{LEAST_RETRAININGS} are known",
            example=0.83,
        ),
    ] = None
    interval: Annotated[
        tuple[float, float] | None,
        about("where the score of many retrainings lies with a probability of 95 %", example=[0.61, 0.93]),
    ] = None
    sentence: Annotated[
        str,
        about(
            "the result, and what to do about it",
            example="The hypergradient predicts what retraining gives: its score over 20 retrainings is 0.83 (0.61 to "
            "0.93).",
        ),
    ]

    @property
    def predicted(self) -> tuple[float, ...]:
        """The predicted change of each retraining for which both changes are known, by number."""
        return tuple(run.predicted for run in self._known if run.predicted is not None)

    @property
    def real(self) -> tuple[float, ...]:
        """The real changes of these."""
        return tuple(run.real for run in self._known if run.real is not None)

    @property
    def _known(self) -> list[Retraining]:
        return [run for run in self.runs if run.predicted is not None and run.real is not None]

    def __str__(self) -> str:
        return self.sentence
