"""Figures of the hyperparameters of one trial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from nestor import lifecycle
from nestor.callbacks import whole_number
from nestor.errors import ArgumentInvalid, HyperparametersNotFound, HyperparameterUnknown, called_as
from nestor.results.values import members
from nestor.schemas.steps import QUANTILES
from nestor.trial import Trial
from nestor.visualization.figures import BLUE, empty, expect_trial, require_plotly, titled

if TYPE_CHECKING:
    import numpy
    from plotly.graph_objects import Figure

QUANTILE_NAMES = ("min", *(f"{percent}%" for percent in QUANTILES[1:-1]), "max")
CHANNELS = (1, 3)
RIDGE = 1.5  # height of a histogram, in distances between rows
BANDS = (  # lower edge, upper edge, fraction of the values, opacity
    ("min", "max", "all", 0.1),
    ("5%", "95%", "90 %", 0.18),
    ("25%", "75%", "50 %", 0.3),
)


@called_as("plot_hyperparameter_bands")
def plot_hyperparameter_bands(trial: Trial, name: str) -> Figure:
    """The distribution of the values under `name` along a trial: their median, and bands of 50 %, 90 % and all.

    Values are in the space that is optimized. `name` may be a prefix, which stands for all its members.

    Of one hyperparameter with several entries, at most 1,000 of each 100,000 steps are drawn, without reading the
    entries. Of others, and of trials that an earlier version recorded, the steps that have a snapshot are drawn.
    """
    expect_trial("plot_hyperparameter_bands", "trial", trial)
    figure = empty("plot_hyperparameter_bands")
    columns, count = _recorded_quantiles(trial, name) or _quantiles_of_snapshots(trial, name)
    x = list(columns["step"])
    for low, high, fraction, alpha in BANDS:
        edge = {"x": x, "mode": "lines", "line": {"width": 0}, "legendgroup": fraction, "hoverinfo": "skip"}
        filled = {"name": f"{fraction} of the values", "fill": "tonexty", "fillcolor": f"rgba({BLUE}, {alpha})"}
        figure.add_scatter(y=list(columns[low]), showlegend=False, **edge)
        figure.add_scatter(y=list(columns[high]), **edge, **filled)
    figure.add_scatter(x=x, y=list(columns["50%"]), name="median", mode="lines", line={"color": f"rgb({BLUE})"})
    return titled(figure, f"{name}: {count:,} values, as optimized", x="outer step", y=name)


@called_as("plot_hyperparameter_histograms")
def plot_hyperparameter_histograms(trial: Trial, name: str, *, bins: int = 40, rows: int = 12) -> Figure:
    """Histograms of the values under `name` at several steps, the first at the bottom; each has the same height.

    Values are in the space that is optimized. `name` may be a prefix, which stands for all its members.

    Args:
        bins: of each histogram; all have the same edges.
        rows: the largest number of histograms. Of more snapshots, evenly spaced ones are drawn.

    Raises:
        HparamNotFound: the trial has no such hyperparameter.
    """
    owner = "plot_hyperparameter_histograms"
    expect_trial(owner, "trial", trial)
    bins, rows = whole_number("bins", bins, least=1), whole_number("rows", rows, least=1)
    figure = empty(owner)
    import numpy as np

    drawn = _snapshots(trial, name, rows)
    pooled = np.concatenate([values for _, values in drawn])
    edges = np.histogram_bin_edges(pooled[np.isfinite(pooled)], bins)
    middles = (edges[1:] + edges[:-1]) / 2
    x = [edges[0], *middles, edges[-1]]
    for row, (step, values) in reversed([*enumerate(drawn)]):  # lower rows overlap those above
        counts, _ = np.histogram(values, edges)
        heights = row + RIDGE * counts / max(counts.max(), 1)
        shade = 0.35 + 0.65 * row / max(len(drawn) - 1, 1)
        figure.add_scatter(
            x=[*x, x[0]],
            y=[row, *heights, row, row],
            customdata=[0, *counts, 0, 0],
            fill="toself",
            fillcolor=_on_white(shade),
            line={"color": "white", "width": 1},
            mode="lines",
            name=f"step {step}",
            hovertemplate="%{x:.4g}: %{customdata} values<extra>step " + str(step) + "</extra>",
            showlegend=False,
        )
    figure.update_yaxes(tickvals=[*range(len(drawn))], ticktext=[str(step) for step, _ in drawn], showgrid=False)
    figure.update_layout(height=220 + 40 * len(drawn))
    return titled(figure, f"{name}: {drawn[0][1].size:,} values, as optimized", x=name, y="outer step")


@called_as("plot_images")
def plot_images(trial: Trial, name: str, *, step: int | None = None, limit: int = 25) -> Figure:
    """Hyperparameters that are images, such as the pixels of `DistilledData`, after `step`; by default the newest.

    Shapes are (height, width), (channels, height, width) and (images, channels, height, width), with one channel or
    three; without a dimension for one channel, (images, height, width). All images share one scale, from the lowest to
    the highest value, in the space that is optimized.

    Args:
        limit: the largest number of images. The first are drawn.

    Raises:
        ArgumentInvalid: the hyperparameter has no such shape.
        HparamNotFound: the trial has no such hyperparameter.
        HyperparametersNotFound: the step has no snapshot.
    """
    owner = "plot_images"
    expect_trial(owner, "trial", trial)
    limit = whole_number("limit", limit, least=1)
    require_plotly(owner)
    from plotly.subplots import make_subplots

    values = (trial.hparams if step is None else trial.hparams_at(step)).numpy()
    images = _images(owner, name, members(values, name))
    drawn = images[:limit]
    low, high = float(drawn.min()), float(drawn.max())
    cols = math.ceil(math.sqrt(len(drawn)))
    rows = math.ceil(len(drawn) / cols)
    side = 130 if len(drawn) > 1 else 360  # pixels of the screen
    titles = [str(index) for index in range(len(drawn))] if len(images) > 1 else []
    figure = make_subplots(
        rows=rows, cols=cols, subplot_titles=titles, horizontal_spacing=0.02, vertical_spacing=0.2 / rows
    )
    for index, image in enumerate(drawn):
        place = {"row": index // cols + 1, "col": index % cols + 1}
        if len(image) == 3:
            scaled = (255 * (image - low) / ((high - low) or 1.0)).round().astype("uint8")
            figure.add_image(z=scaled.transpose(1, 2, 0), hoverinfo="skip", **place)
        else:
            figure.add_heatmap(z=image[0], coloraxis="coloraxis", **place)
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed", constrain="domain")
    for index in range(len(drawn)):  # square pixels
        axis = "" if index == 0 else str(index + 1)
        figure.update_layout({f"yaxis{axis}": {"scaleanchor": f"x{axis}"}})
    count = f"{len(drawn)} of {len(images)} images" if len(images) > 1 else "one image"
    title = f"{name}: {count}, from {low:.3g} to {high:.3g}"
    colors = {"colorscale": "gray", "cmin": low, "cmax": high}
    return figure.update_layout(
        title=title,
        template="plotly_white",
        coloraxis=colors,
        width=max(480, 140 + side * cols),
        height=140 + side * rows,
    )


def _recorded_quantiles(trial: Trial, name: str) -> tuple[Mapping[str, Iterable[float]], int] | None:
    """The steps and their quantiles by name, and the number of entries; None if they were not recorded."""
    try:
        found = trial.hparam_summary(name)
    except HyperparameterUnknown:  # a prefix
        return None
    if not found.distributions.number:
        return None
    quantiles = dict(zip(QUANTILE_NAMES, zip(*found.distributions.quantiles, strict=True), strict=True))
    return {"step": found.distributions.number, **quantiles}, math.prod(found.shape)


def _quantiles_of_snapshots(trial: Trial, name: str) -> tuple[Mapping[str, Iterable[float]], int]:
    columns = cast("Mapping[str, Iterable[float]]", trial.trajectory(name).reset_index())
    return columns, int(next(iter(columns["count"]), 0))


def _snapshots(trial: Trial, name: str, most: int) -> list[tuple[int, numpy.ndarray]]:
    """At most `most` evenly spaced steps with the values under `name`: the last, and the first if there are two."""
    import numpy as np

    steps = trial.hparams_steps
    last, count = len(steps) - 1, min(most, len(steps))
    chosen = {steps[last - at * last // max(count - 1, 1)] for at in range(count)}
    found: list[tuple[int, numpy.ndarray]] = []
    for step in sorted(chosen):
        try:
            named = members(trial.hparams_at(step).numpy(), name)
        except HyperparametersNotFound:  # thinned out meanwhile
            continue
        found.append((step, np.concatenate([array.ravel() for array in named.values()]).astype(np.float64)))
    if not found:
        raise HyperparametersNotFound(trial=str(trial.id), what=lifecycle.missing_step(None, None))
    return found


def _on_white(shade: float) -> str:
    """The blue of all figures, lightened but opaque, since histograms overlap."""
    parts = (255 - shade * (255 - int(part)) for part in BLUE.split(","))
    return "rgb(" + ", ".join(f"{part:.0f}" for part in parts) + ")"


def _images(owner: str, name: str, named: dict[str, numpy.ndarray]) -> numpy.ndarray:
    """The values as images of shape (n, channels, height, width)."""
    given = ", ".join(f"{full!r} of shape {array.shape}" for full, array in named.items())
    if len(named) == 1:
        (array,) = named.values()
        if array.ndim == 2:
            array = array[None, None]
        elif array.ndim == 3:
            array = array[None] if len(array) in CHANNELS else array[:, None]
        if array.ndim == 4 and array.shape[1] in CHANNELS and array.size:
            return array.astype("float64")
    expected = "the name of one hyperparameter of shape (images, channels, height, width), with one channel or three"
    raise ArgumentInvalid(owner=owner, argument="name", given=given, expected=expected)
