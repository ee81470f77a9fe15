"""Every hyperparameter of a trial in one line each, as needed for a table."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nestor.options.base import about
from nestor.schemas.base import CURSOR, SEQ, Schema
from nestor.schemas.steps import QUANTILES, TensorSummary

FEWEST_COURSE_POINTS, DEFAULT_COURSE_POINTS, MOST_COURSE_POINTS = 2, 24, 100
DEFAULT_COURSES, MOST_COURSES = 100, 500  # hyperparameters of a page


class Course(Schema):
    """Quantiles of the entries of one hyperparameter, before the transform, at steps at equal distances."""

    number: Annotated[list[int], about("steps, in order; 0 has the initial values", example=[0, 10])]
    quantiles: Annotated[
        list[Annotated[tuple[float, ...], Field(min_length=len(QUANTILES), max_length=len(QUANTILES))]],
        about(
            "of each step, at 0, 5, 25, 50, 75, 95 and 100 %; of a single entry, seven times its value",
            example=[[-6.0] * 7, [-7.4, -7.2, -6.8, -5.9, -4.8, -4.3, -4.1]],
        ),
    ]


class HyperparameterCourse(Schema):
    """One hyperparameter of a trial: what it is, where it stands, and how it came there."""

    name: Annotated[str, about("with dots, such as augmentation.conv.weight", example="l2.0.weight")]
    shape: Annotated[tuple[int, ...], about("empty for a scalar", example=[128, 64])]
    entries: Annotated[int, about("how many numbers it has", example=8192)]
    transform: Annotated[
        str,
        about(
            "maps the stored value to the one that the loss reads: identity, exp, sigmoid or softplus", example="exp"
        ),
    ]
    share: Annotated[
        float | None,
        about(
            "of the squared Euclidean norm of the hypergradient over all hyperparameters; null: before the first "
            "step, or the norm is 0",
            example=0.25,
        ),
    ]
    moved: Annotated[
        float | None,
        about(
            "fraction of the entries whose value, as the losses read it, differs from its start by more than 10 % of "
            "it, at the step `moved_step`; null: an earlier version recorded the snapshot",
            example=0.6,
        ),
    ]
    latest: Annotated[TensorSummary | None, about("statistics at the step `step`; null: it has none")]
    course: Annotated[
        Course, about("empty: no step has any, or an earlier version recorded them without distributions")
    ]


class HyperparameterCourses(Schema):
    """One page of the hyperparameters of a trial, those with the largest share of the hypergradient first."""

    items: Annotated[tuple[HyperparameterCourse, ...], about("by `share`, descending, and then by `name`")]
    step: Annotated[
        int, about("of `latest` and `share`: the newest when the first page was read; 0: before the first", example=12)
    ]
    moved_step: Annotated[
        int | None,
        about("the latest that has a snapshot; null: it has none, or an earlier version recorded it", example=10),
    ]
    n: Annotated[int, about("hyperparameters on all pages", example=4)]
    entries: Annotated[int, about("of all hyperparameters together", example=9226)]
    next_cursor: Annotated[str | None, CURSOR] = None
    seq: Annotated[int, SEQ]
