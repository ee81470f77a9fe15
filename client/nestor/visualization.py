"""Figures of studies and trials, as plotly figures to show, change or save."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nestor.extras import require
from nestor.study import Study
from nestor.trial import Trial

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["plot_hyperparameter_bands", "plot_optimization_history", "plot_trial"]

BLUE = "31, 119, 180"
BANDS = (  # from, to, share of the values, opacity
    ("min", "max", "all", 0.1),
    ("5%", "95%", "90 %", 0.18),
    ("25%", "75%", "50 %", 0.3),
)


def plot_optimization_history(study: Study | Trial | Iterable[Trial]) -> Figure:
    """What every trial is judged by, along its steps, and the lowest of each: validation loss, or held-out loss."""
    trials = study.trials if isinstance(study, Study) else [study] if isinstance(study, Trial) else list(study)
    go = _graph_objects("plot_optimization_history")
    figure = go.Figure()
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


def plot_trial(trial: Trial) -> Figure:
    """A trial's losses, its metrics, and the hypergradient's norm, over its steps."""
    _graph_objects("plot_trial")
    from plotly.subplots import make_subplots

    steps = trial.steps
    metrics = list(dict.fromkeys(name for step in steps for name in (*step.val_metrics, *step.test_metrics)))
    panels = ["loss", *metrics, "hypergradient norm"]
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, subplot_titles=panels)

    def draw(row: int, name: str, values: list[float | None], *, marked: bool = False) -> None:
        known = [(step.number, value) for step, value in zip(steps, values, strict=True) if value is not None]
        if known:
            x, y = zip(*known, strict=True)
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


def plot_hyperparameter_bands(trial: Trial, name: str) -> Figure:
    """How the values under `name` spread along a trial: their median, and bands that hold 50 %, 90 % and all."""
    go = _graph_objects("plot_hyperparameter_bands")
    frame = trial.trajectory(name)
    x = list(frame.index)
    figure = go.Figure()
    for low, high, held, alpha in BANDS:
        edge = {"x": x, "mode": "lines", "line": {"width": 0}, "legendgroup": held, "hoverinfo": "skip"}
        filled = {"name": f"{held} of the values", "fill": "tonexty", "fillcolor": f"rgba({BLUE}, {alpha})"}
        figure.add_scatter(y=list(frame[low]), showlegend=False, **edge)
        figure.add_scatter(y=list(frame[high]), **edge, **filled)
    figure.add_scatter(x=x, y=list(frame["50%"]), name="median", mode="lines", line={"color": f"rgb({BLUE})"})
    count = int(frame["count"].iloc[0]) if len(frame) else 0
    return _titled(figure, f"{name}: {count:,} values, as optimised", x="outer step", y=name)


def _graph_objects(what: str) -> Any:
    return require("plotly.graph_objects", what=f"nestor.visualization.{what}", extra="viz", package="plotly")


def _titled(figure: Figure, title: str, *, x: str, y: str) -> Figure:
    return figure.update_layout(title=title, xaxis_title=x, yaxis_title=y, template="plotly_white")
