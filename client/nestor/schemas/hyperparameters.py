"""What a trial tunes, and the course of one hyperparameter."""

from __future__ import annotations

from typing import Annotated

from nestor.options.base import about
from nestor.program_format import EntryNames
from nestor.schemas.base import SEQ, Schema
from nestor.schemas.steps import TensorSummary
from nestor.schemas.thinning import fewest_points


class HyperparameterInfo(Schema):
    """One hyperparameter that a trial tunes."""

    name: Annotated[str, about("with dots, such as augmentation.conv.weight", example="l2.0.weight")]
    shape: Annotated[tuple[int, ...], about("empty for a scalar", example=[128, 64])]
    dtype: Annotated[str, about("such as float32", example="float32")]
    transform: Annotated[
        str,
        about(
            "maps the stored value to the one that the loss reads: identity, exp, sigmoid or softplus", example="exp"
        ),
    ]
    of: Annotated[str | None, about("parameter that all its entries belong to", example="0.weight")] = None
    axes: Annotated[
        tuple[str | tuple[str, ...], ...] | None,
        about(
            "for each dimension, what its positions count, such as example, row or class, or the names of its "
            "positions; null: its entries have no names",
            example=["row", "column"],
        ),
    ] = None
    least: Annotated[
        float | None, about("entries stay at or above it, before the transform; null: no bound", example=-20.0)
    ] = None
    largest: Annotated[
        float | None, about("entries stay at or below it, before the transform; null: no bound", example=5.0)
    ] = None

    prior: Annotated[
        float,
        about(
            "precision of the normal prior of the entries' deviations from their level, before the transform; 0: none",
            example=0.01,
        ),
    ] = 0.0

    def entry_name(self, index: int) -> str:
        """What the entry with this flat index belongs to, such as "example 17" or "0.weight, row 3, column 5"."""
        return EntryNames(self.of, self.axes).name(self.name, self.shape, index)


class Hyperparameters(Schema):
    """What a trial tunes, and of which steps there are values."""

    items: Annotated[tuple[HyperparameterInfo, ...], about("one for each hyperparameter")]
    steps: Annotated[
        tuple[int, ...], about("steps with a snapshot, in order; 0 has the initial values", example=[0, 1, 2, 10])
    ]
    seq: Annotated[int, SEQ]


class DistributionColumns(Schema):
    """Distributions of one hyperparameter as columns of equal length, in order of `number`. See `Distribution`."""

    number: Annotated[list[int], about("steps; 0 has the initial values", example=[0, 10])]
    quantiles: Annotated[
        list[tuple[float, ...]],
        about(
            "of each step, at 0, 5, 25, 50, 75, 95 and 100 %",
            example=[[-6.0] * 7, [-7.4, -7.2, -6.8, -5.9, -4.8, -4.3, -4.1]],
        ),
    ]
    first: Annotated[list[int], about("bin i of a histogram begins at (first + i) · width", example=[-12, -15])]
    width: Annotated[list[float], about("of the bins of a histogram, powers of two", example=[0.5, 0.5])]
    counts: Annotated[
        list[tuple[int, ...]],
        about("entries in each bin", unit="entries", example=[[100], [30, 20, 0, 10, 0, 10, 30]]),
    ]


FEWEST_POINTS = fewest_points(len(TensorSummary.model_fields))
DEFAULT_POINTS, MOST_POINTS = 1_000, 10_000


class HyperparameterSummary(HyperparameterInfo):
    """The course of one hyperparameter, as needed for a plot."""

    columns: Annotated[
        dict[str, list[float | None]],
        about(
            "`number` of the step, and the values of each field of `TensorSummary`, of equal length",
            example={"number": [1, 2], "mean": [-6.0, -5.9], "std": [0.0, 0.4]},
        ),
    ]
    distributions: Annotated[
        DistributionColumns,
        about("of steps at equal distances, and the last; none with a single entry, or of steps of earlier versions"),
    ]
    seq: Annotated[int, SEQ]
    next_after: Annotated[
        int | None,
        about("pass it as `after` to get the steps that follow; null: these are the newest", example=100_000),
    ] = None

    def followed_by(self, later: HyperparameterSummary) -> HyperparameterSummary:
        """This and the next answer as one."""
        columns = {name: [*values, *later.columns[name]] for name, values in self.columns.items()}
        distributions = DistributionColumns.model_validate(
            {name: [*values, *getattr(later.distributions, name)] for name, values in self.distributions}
        )
        return later.model_copy(update={"columns": columns, "distributions": distributions})
