"""Figures of the course of trials: their values, losses, diagnostics and times."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import cycle
from typing import TYPE_CHECKING

from nestor.errors import called_as
from nestor.ranking import Ranking
from nestor.study import Study
from nestor.trial import Trial
from nestor.visualization.figures import BLUE, COLORS, empty, expect_trial, log_axis, require_plotly, titled, trials_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STATE_COLORS = {
    "queued": "#9e9e9e",
    "running": "#1f77b4",
    "paused": "#ff7f0e",
    "complete": "#2ca02c",
    "pruned": "#9467bd",
    "failed": "#d62728",
    "cancelled": "#7f7f7f",
}
DIAGNOSTICS = {  # field of a step → title of its panel, and whether its axis is logarithmic
    "hypergradient_norm": ("norm of the hypergradient", True),
    "hypergradient_cosine": ("cosine with the hypergradient before", False),
    "residual": ("relative residual of the linear solve", True),
    "inner_gradient_ratio": ("norm of the inner gradient, relative to its start", True),
}


@called_as("plot_optimization_history")
def plot_optimization_history(study: Study | Trial | Iterable[Trial]) -> Figure:
    """The value of each trial at each evaluated step, and its best: the study's metric, or else the loss.

    Trials that are not given as a study are shown by the loss.
    """
    trials = trials_of(study, "plot_optimization_history")
    figure = empty("plot_optimization_history")
    record = study.record if isinstance(study, Study) else None
    ranking = Ranking() if record is None else Ranking.of(record)
    examples = set[str]()  # that judge the trials
    for trial, color in zip(trials, cycle(COLORS), strict=False):
        name, steps = f"trial {trial.number}", [step for step in trial.steps if step.value is not None]
        points = [(step.number, step.value_of(ranking.metric)) for step in steps]
        best = ranking.best(points, lambda point: point[1])
        if best is None:
            continue
        examples.add("all validation" if steps[-1].held_out_loss is None else "held-out")
        x, y = zip(*points, strict=True)
        curve = {"x": x, "y": y}
        style = {"legendgroup": name, "line": {"color": color}}
        figure.add_scatter(**curve, **style, name=name, mode="lines")
        mark = {"mode": "markers", "marker": {"color": color, "size": 9}, "showlegend": False}
        figure.add_scatter(x=[best[0]], y=[best[1]], name=f"{name}, best", legendgroup=name, **mark)
    measure = ranking.metric or "loss"
    judged = f" on {' or '.join(sorted(examples))} examples" if examples else ": no trial was evaluated yet"
    return titled(figure, f"{measure[0].upper()}{measure[1:]}{judged}", x="outer step", y=measure)


@called_as("plot_trial")
def plot_trial(trial: Trial) -> Figure:
    """A trial's losses, its metrics, and the hypergradient's norm, over its steps."""
    expect_trial("plot_trial", "trial", trial)
    require_plotly("plot_trial")
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
    figure.update_yaxes(**log_axis(step.hypergradient_norm for step in steps), row=len(panels), col=1)
    figure.update_xaxes(title_text="outer step", row=len(panels), col=1)
    return figure.update_layout(title=f"Trial {trial.number}", template="plotly_white", height=180 + 200 * len(panels))


@called_as("plot_timeline")
def plot_timeline(study: Study | Trial | Iterable[Trial]) -> Figure:
    """When each trial began and ended, colored by its state. A trial that has not begun has no bar."""
    records = [trial.record for trial in trials_of(study, "plot_timeline")]
    figure = empty("plot_timeline")
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
    return titled(figure, "Timeline", x="time (UTC)", y="trial")


@called_as("plot_diagnostics")
def plot_diagnostics(trial: Trial) -> Figure:
    """What shows whether the hypergradients can be trusted: their norm and cosine, the residual, the inner gradient."""
    expect_trial("plot_diagnostics", "trial", trial)
    require_plotly("plot_diagnostics")
    from plotly.subplots import make_subplots

    steps = trial.steps
    titles = [title for title, _ in DIAGNOSTICS.values()]
    figure = make_subplots(rows=len(titles), cols=1, shared_xaxes=True, subplot_titles=titles)
    for row, (field, (_, is_log)) in enumerate(DIAGNOSTICS.items(), start=1):
        points = [(step.number, getattr(step, field)) for step in steps if getattr(step, field) is not None]
        x, y = [x for x, _ in points], [y for _, y in points]
        figure.add_scatter(x=x, y=y, mode="lines", line={"color": f"rgb({BLUE})"}, showlegend=False, row=row, col=1)
        if is_log:
            figure.update_yaxes(**log_axis(y), row=row, col=1)
        else:
            figure.update_yaxes(range=[-1.05, 1.05], row=row, col=1)
    figure.update_xaxes(title_text="outer step", row=len(titles), col=1)
    title = f"Diagnostics of trial {trial.number}" + ("" if steps else ": it has no steps yet")
    return figure.update_layout(title=title, template="plotly_white", height=180 + 180 * len(titles))
