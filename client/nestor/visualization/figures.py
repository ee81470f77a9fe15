"""What all figures share: the check of their arguments, an empty figure, and its titles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from nestor.errors import ArgumentInvalid, shown
from nestor.extras import require
from nestor.study import Study
from nestor.trial import Trial

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BLUE = "31, 119, 180"
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")


def trials_of(given: object, owner: str) -> list[Trial]:
    """The trials of `given`, an argument of the function `owner`."""
    if isinstance(given, Study):
        return given.trials
    several = list(cast("Iterable[object]", given)) if isinstance(given, Iterable) else [given]
    for one in several:
        expect_trial(owner, "study", one, "a Study, a Trial, or several trials")
    return cast("list[Trial]", several)


def expect_trial(owner: str, argument: str, given: object, expected: str = "a Trial, such as study.trials[0]") -> None:
    """Refuse what is not a trial."""
    if not isinstance(given, Trial):
        raise ArgumentInvalid(owner=owner, argument=argument, given=shown(given), expected=expected)


def require_plotly(function: str) -> None:
    """Name the extra to install if plotly is missing."""
    require("plotly.graph_objects", what=f"nestor.visualization.{function}", extra="viz", package="plotly")


def empty(function: str) -> Figure:
    """A figure to draw in, for the function of that name."""
    require_plotly(function)
    from plotly.graph_objects import Figure

    return Figure()


def titled(figure: Figure, title: str, *, x: str, y: str) -> Figure:
    """`figure` with titles, in the style of all figures."""
    return figure.update_layout(title=title, xaxis_title=x, yaxis_title=y, template="plotly_white")


def log_axis(values: Iterable[float]) -> dict[str, object]:
    """The options of a logarithmic axis for `values`. plotly's own ticks overlap in a low panel."""
    positive = [value for value in values if 0 < value < math.inf]
    decades = math.log10(max(positive) / min(positive)) if positive else 0.0
    ticks = {} if decades < 0.7 else {"dtick": "D2" if decades < 2.5 else math.ceil(decades / 5)}
    return {"type": "log", "tickformat": "~g", **ticks}
