"""Figures of studies and trials, as plotly figures to show, change or save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from nestor.errors import ArgumentInvalid, called_as, shown
from nestor.extras import require
from nestor.lifecycle import Ranking
from nestor.study import Study
from nestor.trial import Trial

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["plot_hyperparameter_bands", "plot_optimization_history", "plot_trial"]

BLUE = "31, 119, 180"
BANDS = (  # lower edge, upper edge, fraction of the values, opacity
    ("min", "max", "all", 0.1),
    ("5%", "95%", "90 %", 0.18),
    ("25%", "75%", "50 %", 0.3),
)


@called_as("plot_optimization_history")
def plot_optimization_history(study: Study | Trial | Iterable[Trial]) -> Figure:
    """The value of each trial at each evaluated step, and its best: the study's metric, or else the loss.

    Trials that are not given as a study are shown by the loss.
    """
    trials = _trials(study)
    figure = _figure("plot_optimization_history")
    record = study.record if isinstance(study, Study) else None
    ranking = Ranking() if record is None else Ranking(record.metric, record.direction)
    for trial in trials:
        name = f"trial {trial.number}"
        points = [(step.number, step.value_of(ranking.metric)) for step in trial.steps if step.value is not None]
        best = ranking.best(points, lambda point: point[1])
        if best is None:
            continue
        x, y = zip(*points, strict=True)
        figure.add_scatter(x=x, y=y, name=name, mode="lines", legendgroup=name)
        figure.add_scatter(
            x=[best[0]], y=[best[1]], name=f"{name}, best", mode="markers", legendgroup=name, showlegend=False
        )
    measure = ranking.metric or "loss"
    return _titled(figure, f"{measure[0].upper()}{measure[1:]} on all validation examples", x="outer step", y=measure)


@called_as("plot_trial")
def plot_trial(trial: Trial) -> Figure:
    """A trial's losses, its metrics, and the hypergradient's norm, over its steps."""
    _expect_trial("plot_trial", "trial", trial)
    _require_plotly("plot_trial")
    from plotly.subplots import make_subplots

    steps = trial.steps
    named = (name for step in steps for name in (*step.val_metrics, *step.metrics, *step.test_metrics))
    metrics = list(dict.fromkeys(named))
    panels = ["loss", *metrics, "hypergradient norm"]
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, subplot_titles=panels)

    def draw(row: int, name: str, values: list[float | None], *, marked: bool = False) -> None:
        points = [(step.number, value) for step, value in zip(steps, values, strict=True) if value is not None]
        if points:
            x, y = zip(*points, strict=True)
            figure.add_scatter(x=x, y=y, name=name, mode="lines+markers" if marked else "lines", row=row, col=1)

    draw(1, "training", [step.train_loss for step in steps])
    draw(1, "validation batch", [step.val_loss for step in steps])
    judged = "held out" if any(step.held_out_loss is not None for step in steps) else "validation"
    draw(1, judged, [step.value for step in steps], marked=judged == "validation")
    draw(1, "test", [step.test_loss for step in steps], marked=True)
    for row, metric in enumerate(metrics, start=2):
        draw(row, f"validation batch {metric}", [step.val_metrics.get(metric) for step in steps])
        draw(row, f"{judged} {metric}", [step.metrics.get(metric) for step in steps], marked=True)
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


def _trials(given: object) -> list[Trial]:
    if isinstance(given, Study):
        return given.trials
    several = list(cast("Iterable[object]", given)) if isinstance(given, Iterable) else [given]
    for one in several:
        _expect_trial("plot_optimization_history", "study", one, "a Study, a Trial, or several trials")
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
