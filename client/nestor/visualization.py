"""Figures of studies and trials, as plotly figures to show, change or save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from nestor.errors import ArgumentInvalid, called_as, shown
from nestor.extras import require
from nestor.study import Study
from nestor.trial import Trial

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "plot_diagnostics",
    "plot_hyperparameter_bands",
    "plot_optimization_history",
    "plot_timeline",
    "plot_trial",
]

BLUE = "31, 119, 180"
STATE_COLORS = {
    "queued": "#9e9e9e",
    "running": "#1f77b4",
    "paused": "#ff7f0e",
    "complete": "#2ca02c",
    "failed": "#d62728",
    "cancelled": "#7f7f7f",
}
DIAGNOSTICS = {  # field of a step → title of its panel, and whether its axis is logarithmic
    "hypergradient_norm": ("norm of the hypergradient", True),
    "hypergradient_cosine": ("cosine with the hypergradient before", False),
    "residual": ("relative residual of the linear solve", True),
    "inner_gradient_ratio": ("norm of the inner gradient, relative to its start", True),
}
BANDS = (  # lower edge, upper edge, fraction of the values, opacity
    ("min", "max", "all", 0.1),
    ("5%", "95%", "90 %", 0.18),
    ("25%", "75%", "50 %", 0.3),
)


@called_as("plot_optimization_history")
def plot_optimization_history(study: Study | Trial | Iterable[Trial]) -> Figure:
    """The value of each trial at each step, and its lowest: held-out loss if there is one, else validation loss."""
    trials = _trials(study, "plot_optimization_history")
    figure = _figure("plot_optimization_history")
    for trial in trials:
        steps, name = trial.steps, f"trial {trial.number}"
        if not steps:
            continue
        best = min(steps, key=lambda step: step.value)
        curve = {"x": [step.number for step in steps], "y": [step.value for step in steps]}
        figure.add_scatter(**curve, name=name, mode="lines", legendgroup=name)
        figure.add_scatter(
            x=[best.number], y=[best.value], name=f"{name}, best", mode="markers", legendgroup=name, showlegend=False
        )
    return _titled(figure, "Validation loss", x="outer step", y="validation loss")


@called_as("plot_trial")
def plot_trial(trial: Trial) -> Figure:
    """A trial's losses, its metrics, and the hypergradient's norm, over its steps."""
    _expect_trial("plot_trial", "trial", trial)
    _require_plotly("plot_trial")
    from plotly.subplots import make_subplots

    steps = trial.steps
    metrics = list(dict.fromkeys(name for step in steps for name in (*step.val_metrics, *step.test_metrics)))
    panels = ["loss", *metrics, "hypergradient norm"]
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, subplot_titles=panels)

    def draw(row: int, name: str, values: list[float | None], *, marked: bool = False) -> None:
        points = [(step.number, value) for step, value in zip(steps, values, strict=True) if value is not None]
        if points:
            x, y = zip(*points, strict=True)
            figure.add_scatter(x=x, y=y, name=name, mode="lines+markers" if marked else "lines", row=row, col=1)

    draw(1, "training", [step.train_loss for step in steps])
    draw(1, "validation", [step.val_loss for step in steps])
    draw(1, "held out", [step.held_out_loss for step in steps])
    draw(1, "test", [step.test_loss for step in steps], marked=True)
    for row, metric in enumerate(metrics, start=2):
        draw(row, f"validation {metric}", [step.val_metrics.get(metric) for step in steps])
        draw(row, f"test {metric}", [step.test_metrics.get(metric) for step in steps], marked=True)
    draw(len(panels), "hypergradient norm", [step.hypergradient_norm for step in steps])
    figure.update_yaxes(type="log", row=len(panels), col=1)
    figure.update_xaxes(title_text="outer step", row=len(panels), col=1)
    return figure.update_layout(title=f"Trial {trial.number}", template="plotly_white", height=180 + 200 * len(panels))


@called_as("plot_hyperparameter_bands")
def plot_hyperparameter_bands(trial: Trial, name: str) -> Figure:
    """The distribution of the values under `name` along a trial: their median, and bands of 50 %, 90 % and all.

    Values are in the space that is optimized. `name` may be a prefix, which stands for all its members.
    """
    _expect_trial("plot_hyperparameter_bands", "trial", trial)
    figure = _figure("plot_hyperparameter_bands")
    columns = cast("Mapping[str, Iterable[float]]", trial.trajectory(name).reset_index())
    x = list(columns["step"])
    for low, high, fraction, alpha in BANDS:
        edge = {"x": x, "mode": "lines", "line": {"width": 0}, "legendgroup": fraction, "hoverinfo": "skip"}
        filled = {"name": f"{fraction} of the values", "fill": "tonexty", "fillcolor": f"rgba({BLUE}, {alpha})"}
        figure.add_scatter(y=list(columns[low]), showlegend=False, **edge)
        figure.add_scatter(y=list(columns[high]), **edge, **filled)
    figure.add_scatter(x=x, y=list(columns["50%"]), name="median", mode="lines", line={"color": f"rgb({BLUE})"})
    count = int(next(iter(columns["count"]), 0))
    return _titled(figure, f"{name}: {count:,} values, as optimized", x="outer step", y=name)


@called_as("plot_timeline")
def plot_timeline(study: Study | Trial | Iterable[Trial]) -> Figure:
    """When each trial began and ended, colored by its state. A trial that has not begun has no bar."""
    records = [trial.record for trial in _trials(study, "plot_timeline")]
    figure = _figure("plot_timeline")
    now = datetime.now(UTC)
    for state, color in STATE_COLORS.items():
        chosen = [record for record in records if record.state.value == state and record.started_at is not None]
        if not chosen:
            continue
        begun = [record.started_at or now for record in chosen]
        ended = [record.finished_at or now for record in chosen]
        figure.add_bar(
            y=[record.number for record in chosen],
            base=[start.isoformat() for start in begun],
            x=[(end - start).total_seconds() * 1000 for start, end in zip(begun, ended, strict=True)],
            text=[f"{record.step} of {record.n_steps} steps" for record in chosen],
            textposition="none",
            hovertemplate="trial %{y}: %{text}, from %{base}<extra>" + state + "</extra>",
            name=state,
            orientation="h",
            marker={"color": color},
        )
    if not figure.data:
        figure.add_annotation(text="No trial has begun.", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(type="date")
    figure.update_yaxes(autorange="reversed", tickformat="d", **({"dtick": 1} if len(records) <= 20 else {}))
    figure.update_layout(showlegend=True, barmode="overlay", height=min(200 + 40 * len(records), 900))
    return _titled(figure, "Timeline", x="time (UTC)", y="trial")


@called_as("plot_diagnostics")
def plot_diagnostics(trial: Trial) -> Figure:
    """What shows whether the hypergradients can be trusted: their norm and cosine, the residual, the inner gradient."""
    _expect_trial("plot_diagnostics", "trial", trial)
    _require_plotly("plot_diagnostics")
    from plotly.subplots import make_subplots

    steps = trial.steps
    titles = [title for title, _ in DIAGNOSTICS.values()]
    figure = make_subplots(rows=len(titles), cols=1, shared_xaxes=True, subplot_titles=titles)
    for row, (field, (_, is_log)) in enumerate(DIAGNOSTICS.items(), start=1):
        points = [(step.number, getattr(step, field)) for step in steps if getattr(step, field) is not None]
        x, y = [x for x, _ in points], [y for _, y in points]
        figure.add_scatter(x=x, y=y, mode="lines", line={"color": f"rgb({BLUE})"}, showlegend=False, row=row, col=1)
        if is_log:
            figure.update_yaxes(type="log", row=row, col=1)
        else:
            figure.update_yaxes(range=[-1.05, 1.05], row=row, col=1)
    figure.update_xaxes(title_text="outer step", row=len(titles), col=1)
    title = f"Diagnostics of trial {trial.number}" + ("" if steps else ": it has no steps yet")
    return figure.update_layout(title=title, template="plotly_white", height=180 + 180 * len(titles))


def _trials(given: object, owner: str) -> list[Trial]:
    if isinstance(given, Study):
        return given.trials
    several = list(cast("Iterable[object]", given)) if isinstance(given, Iterable) else [given]
    for one in several:
        _expect_trial(owner, "study", one, "a Study, a Trial, or several trials")
    return cast("list[Trial]", several)


def _expect_trial(owner: str, argument: str, given: object, expected: str = "a Trial, such as study.trials[0]") -> None:
    if not isinstance(given, Trial):
        raise ArgumentInvalid(owner=owner, argument=argument, given=shown(given), expected=expected)


def _require_plotly(function: str) -> None:
    require("plotly.graph_objects", what=f"nestor.visualization.{function}", extra="viz", package="plotly")


def _figure(function: str) -> Figure:
    _require_plotly(function)
    from plotly.graph_objects import Figure

    return Figure()


def _titled(figure: Figure, title: str, *, x: str, y: str) -> Figure:
    return figure.update_layout(title=title, xaxis_title=x, yaxis_title=y, template="plotly_white")
