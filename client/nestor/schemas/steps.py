"""The records of outer steps, as the engine makes them, a server stores them, and users read them."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field

from nestor.options.base import MAX_STEPS, Number, about
from nestor.schemas.base import SEQ, Schema


class TensorSummary(Schema):
    """Statistics of one hyperparameter at one step, over its entries before the transform."""

    min: Annotated[float, about("smallest entry", example=-7.2)]
    max: Annotated[float, about("largest entry", example=-3.1)]
    mean: Annotated[float, about("mean of the entries", example=-5.9)]
    std: Annotated[float, about("standard deviation of the entries, with their number as divisor", example=0.4)]
    gradient_norm: Annotated[float, about("Euclidean norm of the hypergradient", example=0.02)]
    update_norm: Annotated[float, about("Euclidean norm of the change in the outer step", example=0.3)]
    at_bounds: Annotated[float, about("fraction of the entries that are at a bound")] = 0.0
    touched: Annotated[
        float | None,
        about(
            "fraction of the entries with a nonzero hypergradient; a batch touches few example weights", example=0.25
        ),
    ] = None
    gradient_cosine: Annotated[
        float | None,
        about("cosine with the hypergradient of the step before, over the entries that both touched", example=0.8),
    ] = None


QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # percent
MAX_BINS = 64


class Distribution(Schema):
    """How the finite entries of one hyperparameter are distributed at one step, before the transform.

    A bin's width is a power of two, and its edges are multiples of the width. So two histograms can be joined exactly:
    double the narrower width until both are equal, and each time add up the counts of bins 2k and 2k + 1. Transforms
    increase, so transformed quantiles and edges are those of the transformed entries.
    """

    quantiles: Annotated[
        tuple[Annotated[float, Field(allow_inf_nan=False)], ...],
        about(
            "at 0, 5, 25, 50, 75, 95 and 100 %, within 1/2048 of the distance from 5 to 95 %",
            example=[-7.4, -7.2, -6.8, -5.9, -4.8, -4.3, -4.1],
        ),
        Field(min_length=len(QUANTILES), max_length=len(QUANTILES)),
    ]
    first: Annotated[
        int, about("bin i of the histogram begins at (first + i) · width", example=-15, ge=-(2**53), le=2**53)
    ]
    width: Annotated[float, about("of a bin, a power of two", gt=0, example=0.5), Field(allow_inf_nan=False)]
    counts: Annotated[
        tuple[Annotated[int, Field(ge=0, le=2**53)], ...],
        about(
            "entries in each bin, the first and the last of which have some",
            unit="entries",
            example=[30, 20, 0, 10, 0, 10, 30],
        ),
        Field(min_length=1, max_length=MAX_BINS),
    ]


class Distributions(Schema):
    """How the entries of all hyperparameters are distributed at one step."""

    number: Annotated[int, about("of the step; 0 has the initial values", ge=0, le=MAX_STEPS)]
    tensors: Annotated[dict[str, Distribution], about("by name, of those with several entries")]


_SUMMARIES = {
    "l2.0.weight": {"min": -7.2, "max": -3.1, "mean": -5.9, "std": 0.4, "gradient_norm": 0.02, "update_norm": 0.3}
}


MAX_PREDICTIONS = 100


class Step(Schema):
    """One outer update of the hyperparameters, with the inner steps before it. Losses are means over examples."""

    number: Annotated[int, about("from 1", example=12)]
    train_loss: Annotated[
        float, about("on the last inner batch, before its update, with the terms of the hyperparameters", example=0.41)
    ]
    val_loss: Annotated[
        float, about("on this step's validation batch, at the weights after the inner steps", example=0.52)
    ]
    val_examples: Annotated[
        int | None, about("examples in that batch; null: recorded by an earlier version", unit="examples", example=300)
    ] = None
    value: Annotated[
        float | None,
        about(
            "loss on all held-out examples, or on all validation examples if none are held out, after the step; with "
            "folds, the mean over those that have begun; null: not evaluated at this step",
            example=0.5,
        ),
    ] = None
    held_out_loss: Annotated[
        float | None,
        about("on examples that steer nothing; with folds, the mean over the last step of each fold", example=0.55),
    ] = None
    metrics: Annotated[
        dict[str, Number],
        about("the problem's metrics on the examples of `value`, by name", example={"accuracy": 0.91}),
    ] = {}
    test_loss: Annotated[
        float | None, about("on the whole test set; null: not evaluated at this step", example=0.53)
    ] = None
    val_metrics: Annotated[
        dict[str, Number], about("the problem's metrics on this step's validation batch", example={"accuracy": 0.9})
    ] = {}
    test_metrics: Annotated[
        dict[str, Number], about("the problem's metrics on the test set, by name", example={"accuracy": 0.9})
    ] = {}
    hypergradient_norm: Annotated[float, about("Euclidean norm over all hyperparameters", example=0.02)]
    hypergradient_cosine: Annotated[
        float | None,
        about(
            "cosine with the hypergradient of the step before, over all entries that both touched; null: none",
            example=0.8,
        ),
    ] = None
    inner_gradient_norm: Annotated[
        float | None, about("‖∂f/∂w‖ at the hypergradient; the implicit function theorem assumes 0", example=0.3)
    ] = None
    inner_gradient_ratio: Annotated[
        float | None, about("that norm relative to the one at the first inner step", example=0.1)
    ] = None
    outcome: Annotated[
        str | None,
        about("how the linear solve ended, as one word such as converged; null: there was none", example="converged"),
    ] = None
    residual: Annotated[float | None, about("‖b − A q‖ / ‖b‖ of the linear solve", example=0.01)] = None
    products: Annotated[int, about("curvature products used")] = 0
    traced: Annotated[bool, about("whether the products came from a trace, which is faster and gives equal bits")] = (
        False
    )
    alpha: Annotated[float | None, about("step size of the Neumann series", example=0.2)] = None
    alpha_norm: Annotated[
        float | None, about("that, times the curvature's norm; the series converges below 2", example=1.0)
    ] = None
    predicted: Annotated[
        dict[str, Number],
        about(
            f"change of the validation loss that the hypergradient predicts under each of the first {MAX_PREDICTIONS} "
            "nudges, by their number; at the last step of a trial whose `warm_start.nudge` has none",
            example={"0": 0.0012, "1": -0.0007},
        ),
    ] = {}
    hyperparameters: Annotated[dict[str, TensorSummary], about("statistics by name", example=_SUMMARIES)] = {}
    seconds: Annotated[
        dict[str, float],
        about(
            "wall time of inner, hypergradient and evaluation; products and data are parts of these",
            unit="seconds",
            example={"inner": 0.01, "hypergradient": 0.02},
        ),
    ] = {}
    warnings: Annotated[
        tuple[str, ...], about("sentences about what may be wrong, each topic once in a trial", example=[])
    ] = ()

    def value_of(self, metric: str | None) -> float | None:
        """The metric on the examples of `value`, or `value` itself; None if it was not evaluated or is not finite."""
        value = self.value if metric is None else self.metrics.get(metric)
        return value if value is not None and math.isfinite(value) else None


class StepColumns(Schema):
    """Steps as columns of equal length, in order of `number`."""

    columns: Annotated[
        dict[str, list[Any]],
        about("values by the name of a step's field", example={"number": [1, 2], "val_loss": [0.9, 0.7]}),
    ]
    seq: Annotated[int, SEQ]
    next_after: Annotated[
        int | None, about("pass it as `after` to get the steps that follow; null: these are the newest", example=2)
    ] = None
