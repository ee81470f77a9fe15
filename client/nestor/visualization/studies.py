"""Figures that compare the trials of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from nestor.errors import ArgumentInvalid, called_as, shown
from nestor.results.tables import option_rows, step_rows
from nestor.study import Study
from nestor.trial import Trial
from nestor.visualization.figures import empty, titled, trials_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LABELS = {"val_loss": "validation loss", "train_loss": "training loss", "test_loss": "test loss"}
LOG_RATIO = 20  # an axis is logarithmic if its highest value is more than this times its lowest
MAX_LABEL = 18  # characters
MAX_TICKS = 20  # of an axis with categories


@called_as("plot_intermediate_values")
def plot_intermediate_values(study: Study | Trial | Iterable[Trial], metric: str = "val_loss") -> Figure:
    """One number that the steps report, such as a loss or a metric, of all trials over their steps.

    Args:
        metric: a column of `trial.steps_dataframe()` with numbers, such as "train_loss" or "val_metrics.accuracy".

    Raises:
        ArgumentInvalid: no step has a number of that name; the message lists those that there are.
    """
    owner = "plot_intermediate_values"
    trials = trials_of(study, owner)
    if not isinstance(metric, str):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        expected = 'a column of trial.steps_dataframe(), such as "train_loss"'
        raise ArgumentInvalid(owner=owner, argument="metric", given=shown(metric), expected=expected)
    figure = empty(owner)
    known: dict[str, None] = {}
    for trial in trials:
        rows = step_rows(trial.steps)
        known |= {name: None for row in rows for name, value in row.items() if _is_number(value)}
        points = [(row["number"], row[metric]) for row in rows if _is_number(row.get(metric))]
        if points:
            x, y = zip(*points, strict=True)
            mode = "lines" if len(points) == len(rows) > 1 else "lines+markers"
            figure.add_scatter(x=x, y=y, mode=mode, name=f"trial {trial.number}")
    if known and metric not in known:
        expected = "one of " + ", ".join(map(repr, known))
        raise ArgumentInvalid(owner=owner, argument="metric", given=shown(metric), expected=expected)
    label = LABELS.get(metric, metric)
    title = f"{label.capitalize() if metric in LABELS else metric} of each trial"
    figure.update_layout(showlegend=True)
    return titled(figure, title if known else "No trial has steps yet", x="outer step", y=label)


@called_as("plot_parallel_coordinate")
def plot_parallel_coordinate(study: Study | Trial | Iterable[Trial]) -> Figure:
    """The options in which the trials differ, and the best value of each trial, as one line per trial.

    Trials without a value are left out. An axis of positive numbers is logarithmic if they differ by a factor above 20.
    """
    owner = "plot_parallel_coordinate"
    records = [
        record for record in (trial.record for trial in trials_of(study, owner)) if record.best_value is not None
    ]
    figure = empty(owner)
    rows = option_rows(records)
    if not records or not rows[0]:
        text = "The trials do not differ in their options." if records else "No trial has a value."
        figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        return figure.update_layout(title="Parallel coordinates", template="plotly_white")
    best = [cast(float, record.best_value) for record in records]
    value = _axis("best value", best)
    options = [_axis(name, [row[name] for row in rows]) for name in rows[0]]
    line = {
        "color": value["values"],
        "colorscale": "Viridis",
        "cmin": min(value["values"]),
        "cmax": max(value["values"]),
        "showscale": False,
    }
    figure.add_parcoords(dimensions=[value, *options], line=line, labelangle=0, labelside="top")
    margin = {"l": 110, "r": 110, "t": 130}
    return figure.update_layout(
        title="Parallel coordinates", template="plotly_white", margin=margin, width=max(600, 120 * len(options) + 320)
    )


def _axis(label: str, values: Sequence[Any]) -> dict[str, Any]:
    """An axis of parallel coordinates: numbers, their logarithms, or the positions of categories."""
    if not all(_is_number(value) for value in values):
        names = [_name(value) for value in values]
        categories = sorted(set(names))
        every = math.ceil(len(categories) / MAX_TICKS)
        return {
            "label": label,
            "values": [categories.index(name) for name in names],
            "range": [0, max(len(categories) - 1, 1)],
            "tickvals": [*range(0, len(categories), every)],
            "ticktext": categories[::every],
        }
    low, high = min(values), max(values)
    if low > 0 and high / low > LOG_RATIO:
        return {"label": label, "values": [math.log10(value) for value in values], **_log_ticks(low, high)}
    axis = {"label": label, "values": [*values]}
    if len(set(values)) <= MAX_TICKS // 2:
        axis |= {"tickvals": sorted(set(values)), "ticktext": [f"{value:.4g}" for value in sorted(set(values))]}
    return axis


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((top - bottom) / 8))
    ticks = [*range(bottom, top + 1, every)]
    return {"range": [bottom, top], "tickvals": ticks, "ticktext": [f"{10.0**tick:.4g}" for tick in ticks]}


def _name(value: object) -> str:
    """A category, shortened; an option that a trial does not have is "none"."""
    text = "none" if value is None else str(value)
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
