"""Confirmations: is the result of a trial real, without the weights that it warm-started?"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from nestor.options.base import Number, Whole, about
from nestor.schemas.base import Schema
from nestor.schemas.trials import State

TrainedOn = Literal["train", "train+val"]


class Confirm(Schema):
    """A request to train from the first initialization under a trial's best hyperparameters, which stay fixed."""

    seeds: Annotated[Whole, about("trainings on each of `on`, with batches and draws of their own", ge=1, le=100)] = 3
    on: Annotated[
        tuple[TrainedOn, ...],
        about("examples to train on: the training data, and training and validation data together"),
        Field(min_length=1, max_length=2),
    ] = ("train", "train+val")


class Judged(Schema):
    """Numbers about trained weights."""

    value: Annotated[
        float | None,
        about(
            "the study's metric on all validation or held-out examples; null: these examples trained, or no value",
            example=0.941,
        ),
    ] = None
    test_loss: Annotated[
        Number | None, about("on the whole test set; null: no test set, or not evaluated", example=0.21)
    ] = None
    test_metrics: Annotated[
        dict[str, Number], about("the problem's metrics on the test set, by name", example={"accuracy": 0.94})
    ] = {}

    @property
    def numbers(self) -> dict[str, float]:
        """Those that there are, by name."""
        named = {"value": self.value, "test loss": self.test_loss}
        named |= {f"test {name}": value for name, value in self.test_metrics.items()}
        return {name: value for name, value in named.items() if value is not None}


class ConfirmationRun(Judged):
    """One training under fixed hyperparameters: a trial of the same study."""

    trial: Annotated[UUID, about("identifies the training's trial")]
    number: Annotated[int, about("the trial's number in the study", example=4)]
    on: Annotated[TrainedOn, about("examples that it trains on")]
    seed: Annotated[int, about("of its batches and random draws", example=1)]
    state: Annotated[State, about("numbers are there once it is complete")]


class Confirmation(Schema):
    """What a trial reported, beside what its best hyperparameters reach in trainings from the first initialization.

    The weights of a trial were trained while its hyperparameters moved, so they can know more about the validation data
    than its last hyperparameters do [1]. `str(confirmation)` is a table.

    [1] Vicol et al. (2022), On implicit bias in overparameterized bilevel optimization.
    """

    trial: Annotated[UUID, about("whose best hyperparameters are used")]
    step: Annotated[int, about("its best step, whose hyperparameters these are", example=280)]
    tuned: Annotated[Judged, about("the trial's own numbers at that step, of warm-started weights")]
    runs: Annotated[tuple[ConfirmationRun, ...], about("the trainings, by their number")]

    def numbers(self, on: TrainedOn) -> dict[str, list[float]]:
        """Each number of the complete trainings on these examples: `value`, `test loss`, `test` and a metric's name."""
        found: dict[str, list[float]] = {}
        for run in self.runs:
            if run.on == on and run.state is State.complete:
                for name, value in run.numbers.items():
                    found.setdefault(name, []).append(value)
        return found

    def mean(self, on: TrainedOn) -> dict[str, float]:
        """The mean of each of `numbers`."""
        return {name: statistics.mean(values) for name, values in self.numbers(on).items()}

    def std(self, on: TrainedOn) -> dict[str, float]:
        """The standard deviation over the seeds of each of `numbers` that has at least two."""
        return {name: statistics.stdev(values) for name, values in self.numbers(on).items() if len(values) > 1}

    def rows(self) -> list[tuple[str, ...]]:
        """A table: its head, the trial's own numbers, and the mean and deviation of the trainings."""
        kinds: list[TrainedOn] = [on for on in ("train", "train+val") if any(run.on == on for run in self.runs)]
        names = _ordered([self.tuned.numbers, *(self.numbers(on) for on in kinds)])
        own = [_shown(self.tuned.numbers.get(name)) for name in names]
        rows = [("weights", "trainings", *names), (f"as tuned, step {self.step}", "", *own)]
        for on in kinds:
            mean, std = self.mean(on), self.std(on)
            runs = [run for run in self.runs if run.on == on]
            complete = sum(run.state is State.complete for run in runs)
            counted = f"{complete}" if complete == len(runs) else f"{complete} of {len(runs)}"
            rows.append((f"trained on {on}", counted, *(_shown(mean.get(n), std.get(n)) for n in names)))
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _ordered(several: Iterable[Iterable[str]]) -> list[str]:
    """Every name once, in the order of its first place."""
    return list(dict.fromkeys(name for names in several for name in names))


def _shown(value: float | None, std: float | None = None) -> str:
    return "" if value is None else f"{value:.4g}" if std is None else f"{value:.4g} ± {std:.2g}"
